//! Random messages.

use super::{body, message, Client, ROOT};
use crate::p9::Changes;
use crate::virtio::fuzzing::{fuzz, Entry};

/// A message of each type, one behind the other with its length in front, as they come from a driver.
fn corpus() -> Vec<Entry> {
    let session = |messages: &[Vec<u8>]| messages.concat();
    let walk = |new: u32, name: &[u8]| {
        message(
            110,
            &body(|to| {
                to.word(ROOT).word(new).half(1).string(name);
            }),
        )
    };
    let clone = message(
        110,
        &body(|to| {
            to.word(ROOT).word(2).half(0);
        }),
    );
    let create = message(
        14,
        &body(|to| {
            to.word(2).string(b"new").word(2).word(0o644).word(0);
        }),
    );
    let write = message(
        118,
        &body(|to| {
            to.word(2).long(0).data(b"bytes");
        }),
    );
    let read = |kind| {
        message(
            kind,
            &body(|to| {
                to.word(2).long(0).word(4096);
            }),
        )
    };
    let one = |kind| {
        message(
            kind,
            &body(|to| {
                to.word(2).long(0x7ff);
            }),
        )
    };
    let open = message(
        12,
        &body(|to| {
            to.word(2).word(0);
        }),
    );
    let set = message(
        26,
        &body(|to| {
            to.word(2).word(0x1f9).word(0o600).long(0).long(9).long(1).long(2).long(3).long(4);
        }),
    );
    let rename = message(
        74,
        &body(|to| {
            to.word(ROOT).string(b"dir").word(ROOT).string(b"dir2");
        }),
    );
    let link = message(
        70,
        &body(|to| {
            to.word(ROOT).word(2).string(b"hard");
        }),
    );
    let symlink = message(
        16,
        &body(|to| {
            to.word(ROOT).string(b"soft").string(b"..").word(0);
        }),
    );
    let folder = message(
        72,
        &body(|to| {
            to.word(ROOT).string(b"dir3").word(0o755).word(0);
        }),
    );
    let unlink = message(
        76,
        &body(|to| {
            to.word(ROOT).string(b"file").word(0);
        }),
    );
    vec![
        (
            "file",
            session(&[clone.clone(), create, write, read(116), set.clone(), one(24), one(50), one(120)]),
        ),
        ("folder", session(&[walk(2, b"dir"), open, read(40), rename.clone(), one(8), folder])),
        ("links", session(&[walk(2, b"file"), link, symlink, walk(3, b"soft"), one(22), unlink])),
        ("out", session(&[walk(2, b"up"), walk(3, b"up"), one(24), one(12), set, rename, one(122)])),
    ]
}

#[test]
fn whatever_a_client_says_it_is_answered_and_nothing_outside_changes() {
    fuzz(300, &corpus(), |bytes| {
        let mut client = Client::new(Changes::Allowed);
        std::fs::create_dir(client.shared().join("dir")).unwrap();
        std::fs::write(client.shared().join("file"), "file").unwrap();
        std::os::unix::fs::symlink("..", client.shared().join("up")).unwrap();
        let mut rest = bytes;
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let length = (u32::from_le_bytes(*length) as usize).clamp(4, rest.len());
            let (message, behind) = rest.split_at(length);
            rest = behind;
            let room = 8192 + u64::from(message.len() as u16 % 7) - 3;
            if let Some(answer) = client.server.serve(message, room) {
                assert!(answer.len() as u64 <= room);
                assert_eq!(answer[..4], (answer.len() as u32).to_le_bytes());
            }
        }
        let outside: Vec<_> =
            std::fs::read_dir(client.outside.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(outside.len(), 2, "{outside:?}");
        assert_eq!(std::fs::read(client.outside.path().join("secret")).unwrap(), b"secret");
    });
}
