//! A client as Linux is one, and worse ones.

mod fuzz;
mod hostile;

use std::path::Path;

use rustix::io::Errno;
use tempfile::TempDir;

use super::server::Server;
use super::wire::{Reader, Writer};
use super::{device, Changes, Folder};
use crate::virtio::testing::{Rig, BUFFERS};

pub(super) const ROOT: u32 = 1;
const ROOM: u64 = 1 << 20;

/// A folder `shared` with something beside it, and a client that has attached to it.
pub(super) struct Client {
    pub outside: TempDir,
    server: Server,
}

/// A message's body.
pub(super) fn body(put: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    put(&mut writer);
    writer.into_bytes()
}

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Writer::new(kind, 7);
    message.bytes(body);
    message.end()
}

impl Client {
    pub fn new(changes: Changes) -> Self {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        std::fs::create_dir(outside.path().join("shared")).unwrap();
        let server = Server::new(Folder::open(&outside.path().join("shared"), changes).unwrap());
        let mut client = Client { outside, server };
        let version = body(|to| {
            to.word(8192).string(b"9P2000.L");
        });
        let agreed = client.ask(100, &version).unwrap();
        assert_eq!(
            agreed,
            body(|to| {
                to.word(8192).string(b"9P2000.L");
            })
        );
        client.attach(ROOT).unwrap();
        client
    }

    pub fn shared(&self) -> std::path::PathBuf {
        self.outside.path().join("shared")
    }

    /// The answer's body, or its error.
    pub fn ask(&mut self, kind: u8, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let answer = self.server.serve(&message(kind, body), ROOM).expect("an answer");
        let mut reader = Reader(&answer);
        assert_eq!(reader.word().unwrap() as usize, answer.len());
        let (answered, tag) = (reader.byte().unwrap(), reader.half().unwrap());
        assert_eq!(tag, 7);
        if answered == 7 {
            return Err(Errno::from_raw_os_error(reader.word().unwrap() as i32));
        }
        assert_eq!(answered, kind + 1);
        Ok(reader.0.to_vec())
    }

    pub fn attach(&mut self, fid: u32) -> Result<Vec<u8>, Errno> {
        self.ask(
            104,
            &body(|to| {
                to.word(fid).word(u32::MAX).string(b"root").string(b"").word(0);
            }),
        )
    }

    pub fn walk(&mut self, fid: u32, new: u32, names: &[&str]) -> Result<u16, Errno> {
        let asked = body(|to| {
            to.word(fid).word(new).half(names.len() as u16);
            names.iter().for_each(|name| {
                to.string(name.as_bytes());
            });
        });
        self.ask(110, &asked).map(|answer| Reader(&answer).half().unwrap())
    }

    pub fn open(&mut self, fid: u32, flags: u32) -> Result<Vec<u8>, Errno> {
        self.ask(
            12,
            &body(|to| {
                to.word(fid).word(flags);
            }),
        )
    }

    /// A new file in the folder of `fid`, which then is the file.
    pub fn create(&mut self, fid: u32, name: &str, mode: u32) -> Result<Vec<u8>, Errno> {
        self.ask(
            14,
            &body(|to| {
                to.word(fid).string(name.as_bytes()).word(2).word(mode).word(0);
            }),
        )
    }

    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let answer = self.ask(
            118,
            &body(|to| {
                to.word(fid).long(offset).data(data);
            }),
        )?;
        Ok(Reader(&answer).word().unwrap())
    }

    pub fn read(&mut self, kind: u8, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let answer = self.ask(
            kind,
            &body(|to| {
                to.word(fid).long(offset).word(count);
            }),
        )?;
        let mut reader = Reader(&answer);
        let length = reader.word().unwrap() as usize;
        assert_eq!(reader.0.len(), length);
        Ok(reader.0.to_vec())
    }

    pub fn clunk(&mut self, fid: u32) -> Result<Vec<u8>, Errno> {
        self.ask(
            120,
            &body(|to| {
                to.word(fid);
            }),
        )
    }

    /// The names in an open folder, read so many bytes at a time.
    fn names(&mut self, fid: u32, count: u32) -> Vec<String> {
        let (mut names, mut at) = (Vec::new(), 0);
        loop {
            let entries = self.read(40, fid, at, count).unwrap();
            let mut reader = Reader(&entries);
            while !reader.0.is_empty() {
                reader.bytes(13).unwrap();
                at = reader.long().unwrap();
                reader.byte().unwrap();
                names.push(String::from_utf8(reader.string().unwrap().to_vec()).unwrap());
            }
            if entries.is_empty() {
                names.sort();
                return names;
            }
        }
    }

    pub fn attributes(&mut self, fid: u32) -> Result<(u32, u64), Errno> {
        let answer = self.ask(
            24,
            &body(|to| {
                to.word(fid).long(0x7ff);
            }),
        )?;
        let mut reader = Reader(&answer);
        reader.bytes(8 + 13).unwrap();
        let mode = reader.word().unwrap();
        reader.bytes(4 + 4 + 8 + 8).unwrap();
        Ok((mode, reader.long().unwrap()))
    }

    pub fn set(&mut self, fid: u32, valid: u32, mode: u32, size: u64) -> Result<Vec<u8>, Errno> {
        let asked = body(|to| {
            to.word(fid).word(valid).word(mode).word(12345).word(12345).long(size);
            [1_000_000_000u64, 5, 2_000_000_000, 6].iter().for_each(|&time| {
                to.long(time);
            });
        });
        self.ask(26, &asked)
    }

    /// A message with a fid and a name.
    pub fn named(&mut self, kind: u8, fid: u32, name: &[u8], rest: &[u8]) -> Result<Vec<u8>, Errno> {
        self.ask(
            kind,
            &body(|to| {
                to.word(fid).string(name).bytes(rest);
            }),
        )
    }
}

#[test]
fn a_file_is_made_written_read_and_looked_at() {
    let mut client = Client::new(Changes::Allowed);
    client.walk(ROOT, 2, &[]).unwrap();
    client.create(2, "a", 0o640).unwrap();
    assert_eq!(client.write(2, 3, b"hello").unwrap(), 5);
    assert_eq!(client.read(116, 2, 0, 100).unwrap(), b"\0\0\0hello");
    assert_eq!(client.attributes(2).unwrap(), (0o100_640, 8));
    assert_eq!(std::fs::read(client.shared().join("a")).unwrap(), b"\0\0\0hello");
    client
        .ask(
            50,
            &body(|to| {
                to.word(2).word(0);
            }),
        )
        .unwrap();
    client.set(2, 1 << 3, 0, 4).unwrap();
    client.set(2, 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8, 0o600, 0).unwrap();
    assert_eq!(client.attributes(2).unwrap(), (0o100_600, 4));
    let changed = std::fs::metadata(client.shared().join("a")).unwrap().modified().unwrap();
    assert_eq!(changed.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 2_000_000_000);
    client.clunk(2).unwrap();
    assert_eq!(client.clunk(2), Err(Errno::BADF));
    assert_eq!(client.walk(ROOT, 3, &["a"]).unwrap(), 1);
    client.open(3, 0).unwrap();
    assert_eq!(client.write(3, 0, b"x"), Err(Errno::BADF), "it was opened to be read");
}

#[test]
fn folders_are_made_listed_renamed_and_removed_and_names_go_with_them() {
    let mut client = Client::new(Changes::Allowed);
    client.named(72, ROOT, b"d", &[0o755u32.to_le_bytes(), [0; 4]].concat()).unwrap();
    client.walk(ROOT, 2, &["d"]).unwrap();
    client.walk(2, 3, &[]).unwrap();
    client.create(3, "f", 0o600).unwrap();
    client.walk(ROOT, 4, &["d", "f"]).unwrap();
    client.walk(ROOT, 5, &[]).unwrap();
    client.open(5, 0).unwrap();
    for number in 0..200 {
        std::fs::write(client.shared().join(format!("file{number:03}")), "").unwrap();
    }
    let names = client.names(5, 500);
    assert_eq!((names.len(), names[2].as_str(), names[3].as_str()), (203, "d", "file000"), "{names:?}");
    assert_eq!(client.read(40, 5, 0, 10).unwrap(), b"", "no room for a name");
    // d becomes e: what was in it is found under its new name.
    let renamed = body(|to| {
        to.word(ROOT).string(b"d").word(ROOT).string(b"e");
    });
    client.ask(74, &renamed).unwrap();
    assert_eq!(client.attributes(4).unwrap().0, 0o100_600);
    assert_eq!(client.walk(ROOT, 6, &["d", "f"]), Err(Errno::NOENT));
    assert_eq!(client.walk(ROOT, 6, &["e", "x"]).unwrap(), 1, "as far as it goes");
    assert_eq!(client.clunk(6), Err(Errno::BADF), "but no fid");
    client
        .ask(
            20,
            &body(|to| {
                to.word(4).word(ROOT).string(b"g");
            }),
        )
        .unwrap();
    assert!(client.shared().join("g").exists());
    assert_eq!(client.named(76, ROOT, b"e", &0u32.to_le_bytes()), Err(Errno::ISDIR));
    client.named(76, ROOT, b"e", &0x200u32.to_le_bytes()).unwrap();
    client
        .ask(
            122,
            &body(|to| {
                to.word(4);
            }),
        )
        .unwrap();
    assert!(!client.shared().join("g").exists());
    // An open file without a name can still be used.
    assert_eq!(client.write(3, 0, b"x").unwrap(), 1);
    assert_eq!(client.attributes(3).unwrap(), (0o100_600, 1));
}

#[test]
fn links_are_made_and_read_and_locks_are_the_guests_own() {
    let mut client = Client::new(Changes::Allowed);
    client.walk(ROOT, 2, &[]).unwrap();
    client.create(2, "a", 0o600).unwrap();
    client
        .ask(
            70,
            &body(|to| {
                to.word(ROOT).word(2).string(b"b");
            }),
        )
        .unwrap();
    client
        .named(
            16,
            ROOT,
            b"c",
            &body(|to| {
                to.string(b"../a").word(0);
            }),
        )
        .unwrap();
    client.walk(ROOT, 3, &["c"]).unwrap();
    let said = client
        .ask(
            22,
            &body(|to| {
                to.word(3);
            }),
        )
        .unwrap();
    assert_eq!(
        said,
        body(|to| {
            to.string(b"../a");
        })
    );
    let inode = |name| {
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(client.outside.path().join(name)).unwrap())
    };
    assert_eq!(inode("shared/a"), inode("shared/b"));
    let lock = body(|to| {
        to.word(2).byte(1).word(0).long(0).long(0).word(1).string(b"me");
    });
    assert_eq!(client.ask(52, &lock).unwrap(), [0]);
    let asked = body(|to| {
        to.word(2).byte(1).long(3).long(4).word(5).string(b"me");
    });
    let free = body(|to| {
        to.byte(2).long(3).long(4).word(5).string(b"me");
    });
    assert_eq!(client.ask(54, &asked).unwrap(), free);
    assert_eq!(
        client
            .ask(
                8,
                &body(|to| {
                    to.word(ROOT);
                })
            )
            .unwrap()
            .len(),
        4 + 4 + 6 * 8 + 4
    );
}

#[test]
fn a_folder_that_may_only_be_read_is_not_changed() {
    let mut client = Client::new(Changes::Refused);
    std::fs::write(client.shared().join("a"), "a").unwrap();
    client.walk(ROOT, 2, &["a"]).unwrap();
    let refused = |outcome: Result<Vec<u8>, Errno>| assert_eq!(outcome, Err(Errno::ROFS));
    for flags in [1, 2, 0x200] {
        refused(client.open(2, flags));
    }
    refused(client.set(2, 1, 0o777, 0));
    refused(client.set(2, 1 << 3, 0, 0));
    refused(client.create(ROOT, "b", 0o600));
    refused(client.named(72, ROOT, b"d", &[0; 8]));
    refused(client.named(
        16,
        ROOT,
        b"s",
        &body(|to| {
            to.string(b"x").word(0);
        }),
    ));
    refused(client.ask(
        70,
        &body(|to| {
            to.word(ROOT).word(2).string(b"b");
        }),
    ));
    refused(client.named(76, ROOT, b"a", &[0; 4]));
    refused(client.ask(
        74,
        &body(|to| {
            to.word(ROOT).string(b"a").word(ROOT).string(b"b");
        }),
    ));
    client.open(2, 0).unwrap();
    assert_eq!(client.read(116, 2, 0, 9).unwrap(), b"a");
    refused(client.ask(
        122,
        &body(|to| {
            to.word(2);
        }),
    ));
    assert_eq!(std::fs::read_dir(client.shared()).unwrap().count(), 1);
}

#[test]
fn a_driver_gets_its_answers_from_the_queue() {
    let outside = tempfile::tempdir().unwrap();
    let folder = || Folder::open(outside.path(), Changes::Allowed).unwrap();
    let rig = Rig::new(device(folder(), "home").unwrap());
    let mut queue = rig.start(1).remove(0);
    let version = message(
        100,
        &body(|to| {
            to.word(8192).string(b"9P2000.L");
        }),
    );
    queue.fill(BUFFERS, &version);
    queue.offer(
        &[(BUFFERS, 5), (BUFFERS + 5, version.len() as u32 - 5)],
        &[(BUFFERS + 0x1000, 4), (BUFFERS + 0x2000, 100)],
    );
    rig.kick(0);
    assert_eq!(queue.wait_used().1, 21);
    assert_eq!(queue.bytes(BUFFERS + 0x1000, 4), 21u32.to_le_bytes());
    assert_eq!(queue.bytes(BUFFERS + 0x2000, 3), [101, 7, 0]);
    // A message without a tag cannot be answered.
    queue.offer(&[(BUFFERS, 6)], &[(BUFFERS + 0x1000, 100)]);
    rig.kick(0);
    rig.wait_for_needs_reset();
    assert!(device(folder(), "").is_err() && device(folder(), &"x".repeat(256)).is_err());
    assert!(Folder::open(Path::new("/none"), Changes::Allowed).is_err());
}
