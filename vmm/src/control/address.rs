//! The address of a host's daemon, as users write it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a daemon listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 7070;
/// Most characters in an address: the longest DNS name and a port.
const ADDRESS_CHARS_MAX: usize = 262;

/// `HOST:PORT`; HOST is a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostAddress {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not HOST:PORT: {why}")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl HostAddress {
    /// The address of a socket.
    pub fn of(socket: SocketAddr) -> Self {
        HostAddress { host: socket.ip().to_string(), port: socket.port() }
    }

    /// The socket addresses that the name stands for.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }

    /// Whether the address only means something on the machine that uses it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The name or address without the port.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |why| AddressError { text: text.chars().take(80).collect(), why };
        if text.len() > ADDRESS_CHARS_MAX {
            return Err(fail("it is too long"));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| fail("the bracket is not closed"))?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| fail("no IPv6 address in the brackets"))?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or_else(|| fail("no port behind the bracket"))?),
                };
                (host, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| fail("the port is no number from 0 to 65535"))?,
            None => DEFAULT_PORT,
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(named) {
            return Err(fail("the host is no name and no address"));
        }
        Ok(HostAddress { host: host.into(), port })
    }
}

impl TryFrom<String> for HostAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<HostAddress> for String {
    fn from(address: HostAddress) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        text.parse::<HostAddress>().expect(text).to_string()
    }

    #[test]
    fn addresses_are_read_and_written_alike() {
        assert_eq!(written("a:1"), "a:1");
        assert_eq!(written("node-1.example"), "node-1.example:7070");
        assert_eq!(written("[::1]:7071"), "[::1]:7071");
        assert_eq!(written("[fe80::1]"), "[fe80::1]:7070");
        assert_eq!(written("10.0.0.1:80"), "10.0.0.1:80");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", ":1", "a:", "a:x", "a:65536", "::1", "[::1", "[::1]7", "[a]:1", "a b:1", "a/b", "a:1:2"]
        {
            assert!(text.parse::<HostAddress>().is_err(), "{text:?}");
        }
        assert!("a".repeat(300).parse::<HostAddress>().is_err());
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        let loopback = |text: &str| text.parse::<HostAddress>().expect("address").is_loopback();
        assert!(loopback("127.0.0.1:1") && loopback("localhost") && loopback("[::1]:2"));
        assert!(!loopback("10.0.0.1") && !loopback("a"));
    }
}
