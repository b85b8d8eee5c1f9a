//! Tap devices (Documentation/networking/tuntap.rst of the kernel).

use std::ffi::c_char;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use tessera_devices::net::HEADER_BYTES;

const CONTROL: &str = "/dev/net/tun";
/// Most bytes in the name of a network interface, without its final zero.
pub const NAME_BYTES_MAX: usize = libc::IFNAMSIZ - 1;

/// Whether a text can be the name of a network interface.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) && name != "." && name != ".."
}

/// Opens the tap device `name`, which is made if it is not there (that takes CAP_NET_ADMIN; so does one that belongs to
/// somebody else). Its frames have headers of [`HEADER_BYTES`] and are complete; reading does not wait.
///
/// # Errors
/// When the kernel has no tap devices, refuses, or the device is in use.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    if !is_name(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no name of a network interface"));
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(CONTROL)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16,
        },
    };
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as c_char);
    let (header, offload) = (HEADER_BYTES as libc::c_int, 0 as libc::c_ulong);
    // SAFETY: an open file; the request lives through the call, which reads and writes no more than it.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    // SAFETY: as above, with an integer that is read.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header) })?;
    // SAFETY: as above, with a value in place of a pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offload) })?;
    Ok(file.into())
}

fn check(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_path_or_a_pattern_would_read_are_refused() {
        for name in ["", "a/b", "tap%d", "..", "a b", "eth0:1", "1234567890123456"] {
            assert!(!is_name(name) && open(name).is_err(), "{name:?}");
        }
        assert!(is_name("tap0") && is_name("123456789012345"));
    }

    #[test]
    fn without_a_right_to_it_a_tap_device_is_refused() {
        // Rights are a thread's.
        let error = std::thread::spawn(|| {
            let mut sets = rustix::thread::capabilities(None).expect("the thread's rights");
            sets.effective = rustix::thread::CapabilitySet::empty();
            rustix::thread::set_capabilities(None, sets).expect("fewer rights");
            open(&format!("tsn{}", std::process::id() % 100_000)).expect_err("refused")
        });
        let error = error.join().expect("no panic");
        assert!(
            matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOENT | libc::ENODEV)),
            "{error}"
        );
    }

    #[test]
    fn a_tap_device_is_made_used_by_one_and_gone_when_it_is_closed() {
        let name = format!("tsr{}", std::process::id() % 100_000);
        let path = format!("/sys/class/net/{name}");
        match open(&name) {
            Ok(tap) => {
                assert!(std::fs::metadata(&path).is_ok());
                assert!(open(&name).is_err(), "it is in use");
                let nothing = rustix::io::read(&tap, &mut [0; 100]);
                assert!(
                    matches!(nothing, Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::IO)),
                    "{nothing:?}"
                );
                drop(tap);
                assert!(std::fs::metadata(&path).is_err());
            }
            // Without the kernel's or the administrator's leave there is nothing to test.
            Err(error) => assert!(
                matches!(
                    error.raw_os_error(),
                    Some(libc::EPERM | libc::EACCES | libc::ENOENT | libc::ENODEV)
                ),
                "{error}"
            ),
        }
    }
}
