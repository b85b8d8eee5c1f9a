//! A client that wants what is not its own.

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::{body, Client, ROOT};
use crate::p9::config::{FIDS_MAX, OPEN_MAX};
use crate::p9::Changes;

const NO_NAMES: [&str; 9] = ["", ".", "..", "/", "../secret", "a/b", "/etc", "a\0b", "../shared/../secret"];

#[test]
fn no_name_leads_out_of_the_folder() {
    let mut client = Client::new(Changes::Allowed);
    std::fs::create_dir(client.shared().join("a")).unwrap();
    for name in NO_NAMES {
        assert_eq!(client.walk(ROOT, 2, &[name]), Err(Errno::INVAL), "{name:?}");
        assert_eq!(client.walk(ROOT, 2, &["a", name]), Err(Errno::INVAL), "{name:?}");
        assert_eq!(client.create(ROOT, name, 0o600), Err(Errno::INVAL), "{name:?}");
        assert_eq!(client.named(72, ROOT, name.as_bytes(), &[0; 8]), Err(Errno::INVAL), "{name:?}");
        assert_eq!(client.named(76, ROOT, name.as_bytes(), &[0; 4]), Err(Errno::INVAL), "{name:?}");
        let link = body(|to| {
            to.string(b"x").word(0);
        });
        assert_eq!(client.named(16, ROOT, name.as_bytes(), &link), Err(Errno::INVAL), "{name:?}");
        let to = body(|to| {
            to.word(ROOT).string(b"a").word(ROOT).string(name.as_bytes());
        });
        assert_eq!(client.ask(74, &to), Err(Errno::INVAL), "{name:?}");
        let from = body(|to| {
            to.word(ROOT).string(name.as_bytes()).word(ROOT).string(b"z");
        });
        assert_eq!(client.ask(74, &from), Err(Errno::INVAL), "{name:?}");
    }
    assert_eq!(client.walk(ROOT, 2, &[&"x".repeat(256)]), Err(Errno::NAMETOOLONG));
    assert_eq!(std::fs::read(client.outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(
        client.ask(
            122,
            &body(|to| {
                to.word(ROOT);
            })
        ),
        Err(Errno::BUSY),
        "the folder itself stays"
    );
}

#[test]
fn no_link_leads_out_of_the_folder() {
    let mut client = Client::new(Changes::Allowed);
    let secret = client.outside.path().join("secret");
    let outside = client.outside.path().display().to_string();
    for (name, target) in
        [("up", ".."), ("file", "../secret"), ("abs", outside.as_str()), ("self", "/proc/self/root")]
    {
        let target = body(|to| {
            to.string(target.as_bytes()).word(0);
        });
        client.named(16, ROOT, name.as_bytes(), &target).unwrap();
        assert_eq!(client.walk(ROOT, 2, &[name]).unwrap(), 1, "the link itself is seen");
        for flags in [0, 1, 2, 0x201, 0o200_000] {
            assert_eq!(client.open(2, flags), Err(Errno::LOOP), "{name}");
        }
        assert_eq!(client.set(2, 1, 0o777, 0), Err(Errno::LOOP), "{name}");
        assert_eq!(client.set(2, 1 << 3, 0, 0), Err(Errno::LOOP), "{name}");
        assert_eq!(client.set(2, 1 << 5, 0, 0), Err(Errno::LOOP), "{name}");
        assert_eq!(
            client.ask(
                70,
                &body(|to| {
                    to.word(ROOT).word(2).string(b"hard");
                })
            ),
            Err(Errno::LOOP)
        );
        client.clunk(2).unwrap();
        // (Its first name is found; the second would be behind it.)
        assert_eq!(client.walk(ROOT, 2, &[name, "secret"]).unwrap(), 1, "{name}");
        assert_eq!(client.clunk(2), Err(Errno::BADF));
        client.walk(ROOT, 2, &[name]).unwrap();
        assert!(client.walk(2, 3, &["secret"]).is_err(), "{name}");
        assert!(client.create(2, "new", 0o600).is_err(), "{name}");
        assert!(client.named(72, 2, b"new", &[0; 8]).is_err(), "{name}");
        assert!(client.named(76, 2, b"secret", &[0; 4]).is_err(), "{name}");
        client.clunk(2).unwrap();
    }
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(client.outside.path()).unwrap().count(), 2);
}

#[test]
fn a_folder_that_becomes_a_link_under_a_fid_leads_nowhere() {
    let mut client = Client::new(Changes::Allowed);
    std::fs::create_dir(client.shared().join("d")).unwrap();
    std::fs::write(client.shared().join("d/secret"), "own").unwrap();
    client.walk(ROOT, 2, &["d", "secret"]).unwrap();
    client.walk(ROOT, 3, &["d"]).unwrap();
    // Somebody on the host does this between two messages.
    std::fs::remove_dir_all(client.shared().join("d")).unwrap();
    std::os::unix::fs::symlink("..", client.shared().join("d")).unwrap();
    assert_eq!(client.open(2, 0), Err(Errno::LOOP));
    assert_eq!(client.attributes(2), Err(Errno::LOOP));
    assert!(client.create(3, "new", 0o600).is_err());
    assert!(client.named(76, 3, b"secret", &[0; 4]).is_err());
    assert_eq!(std::fs::read_dir(client.outside.path()).unwrap().count(), 2);
}

#[test]
fn what_is_no_file_is_not_opened() {
    let mut client = Client::new(Changes::Allowed);
    let pipe = client.shared().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(client.shared().join("socket")).unwrap();
    for (fid, name) in [(2, "pipe"), (3, "socket")] {
        client.walk(ROOT, fid, &[name]).unwrap();
        for flags in [0, 1, 2] {
            assert_eq!(client.open(fid, flags), Err(Errno::ACCESS), "{name}");
        }
    }
    let device = body(|to| {
        to.word(0o020_666).word(1).word(3).word(0);
    });
    assert_eq!(client.named(18, ROOT, b"null", &device), Err(Errno::OPNOTSUPP));
}

#[test]
fn nothing_is_made_that_runs_as_somebody_else() {
    let mut client = Client::new(Changes::Allowed);
    client.walk(ROOT, 2, &[]).unwrap();
    client.create(2, "a", 0o6755).unwrap();
    assert_eq!(client.attributes(2).unwrap().0, 0o100_755);
    client.set(2, 1, 0o7777, 0).unwrap();
    assert_eq!(client.attributes(2).unwrap().0, 0o101_777);
    assert_eq!(client.set(2, 1 << 1 | 1 << 2, 0, 0), Err(Errno::PERM), "its owner stays");
    client.named(72, ROOT, b"d", &[0o2775u32.to_le_bytes(), [0; 4]].concat()).unwrap();
    client.walk(ROOT, 3, &["d"]).unwrap();
    assert_eq!(client.attributes(3).unwrap().0, 0o040_775);
}

#[test]
fn fids_and_open_files_have_bounds() {
    let mut client = Client::new(Changes::Allowed);
    std::fs::write(client.shared().join("a"), "").unwrap();
    for fid in 0..OPEN_MAX as u32 {
        client.walk(ROOT, 100 + fid, &["a"]).unwrap();
        client.open(100 + fid, 0).unwrap();
    }
    client.walk(ROOT, 99, &["a"]).unwrap();
    assert_eq!(client.open(99, 0), Err(Errno::NFILE));
    assert_eq!(client.open(100, 0), Err(Errno::BADF), "it is open");
    assert_eq!(client.walk(100, 98, &[]).unwrap(), 0, "an open fid can be copied");
    assert_eq!(client.walk(100, 100, &[]), Err(Errno::BADF), "but not replaced");
    client.clunk(100).unwrap();
    client.open(99, 0).unwrap();
    let known = OPEN_MAX as u32 + 2;
    for fid in known..FIDS_MAX as u32 {
        client.walk(ROOT, 1000 + fid, &[]).unwrap();
    }
    assert_eq!(client.walk(ROOT, 5_000_000, &[]), Err(Errno::NFILE));
    assert_eq!(client.attach(5_000_000), Err(Errno::NFILE));
    assert_eq!(client.walk(ROOT, 99, &[]), Err(Errno::BADF), "it is somebody's");
}

#[test]
fn what_is_no_message_is_an_error_and_changes_nothing() {
    let mut client = Client::new(Changes::Allowed);
    for kind in 0..=255u8 {
        // (Those that ask for nothing or need no fid.)
        if matches!(kind, 100 | 104 | 108) {
            continue;
        }
        // Nothing, too little, and a string or data longer than the message.
        for bytes in
            [&[][..], &[77, 0, 0], &[77, 0, 0, 0, 0xff, 0xff, b'a'], &[9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(client.ask(kind, bytes).is_err(), "{kind} {bytes:?}");
        }
    }
    let endless = body(|to| {
        to.word(ROOT).word(2).half(17);
        (0..17).for_each(|_| {
            to.string(b"a");
        });
    });
    assert_eq!(client.ask(110, &endless), Err(Errno::INVAL));
    client.walk(ROOT, 2, &[]).unwrap();
    client.create(2, "a", 0o600).unwrap();
    client.write(2, 0, &[7; 100]).unwrap();
    assert_eq!(client.read(116, 2, u64::MAX, u32::MAX), Err(Errno::INVAL));
    client.set(2, 1 << 3, 0, 1 << 30).unwrap();
    assert_eq!(client.read(116, 2, 0, u32::MAX).unwrap().len(), 8192 - 11, "no more than was agreed upon");
    assert_eq!(client.set(2, 1 << 3, 0, u64::MAX), Err(Errno::INVAL));
    assert!(client.write(2, u64::MAX, b"x").is_err());
}
