//! What a card's driver is told (virtio 1.2, 5.1.3 and 5.1.4), and the bounds.

use std::fmt;
use std::str::FromStr;

use virtio_bindings::virtio_net as bits;

use super::backend::{Offload, FRAME_BYTES_MAX, HEADER_BYTES};
use super::error::NetError;
use crate::virtio::queue::Limits;
use crate::virtio::{DeviceKind, Model};

/// The queue whose memory the device writes: frames for the guest.
pub(super) const RECEIVE: u16 = 0;
/// The queue whose memory the device reads: frames of the guest.
pub(super) const TRANSMIT: u16 = 1;
/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 256;

/// Most bytes of a frame with its header.
pub(super) const PACKET_BYTES_MAX: usize = HEADER_BYTES + FRAME_BYTES_MAX;
/// What is taken of the guest's frames at a time.
pub(super) const TRANSMIT_LIMITS: Limits = Limits { chains: 64, bytes: 1 << 20 };
/// What is taken of the guest's memory for frames at a time.
pub(super) const RECEIVE_LIMITS: Limits = Limits { chains: 64, bytes: 16 << 20 };

/// A feature's bit.
const fn bit(number: u32) -> u64 {
    1 << number
}

/// Sums may be left to the device.
pub(super) const SUMS: u64 = bit(bits::VIRTIO_NET_F_CSUM);

/// The hardware address of a card.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address with these bytes.
    ///
    /// # Errors
    /// [`NetError::Mac`] when it is not one of a single card.
    pub fn new(bytes: [u8; 6]) -> Result<Self, NetError> {
        let address = MacAddress(bytes);
        match bytes[0] & 1 == 0 && bytes != [0; 6] {
            true => Ok(address),
            false => Err(NetError::Mac(address.to_string())),
        }
    }

    /// An address that is nobody's by right (the "locally administered" bit is set), made of random bytes.
    pub fn made_of(random: [u8; 6]) -> Self {
        let [first, rest @ ..] = random;
        let [b, c, d, e, f] = rest;
        MacAddress([first & 0xfc | 2, b, c, d, e, f])
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let wrong = || NetError::Mac(text.into());
        let byte = |part: &str| match part.len() {
            2 if part.bytes().all(|digit| digit.is_ascii_hexdigit()) => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
        MacAddress::new(bytes).map_err(|_| wrong())
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The model of a card.
pub(super) fn model(address: MacAddress, offload: Offload) -> Model {
    let own = match offload {
        Offload::None => 0,
        Offload::SumsAndCutting => {
            SUMS | bit(bits::VIRTIO_NET_F_HOST_TSO4) | bit(bits::VIRTIO_NET_F_HOST_TSO6)
        }
    };
    Model {
        kind: DeviceKind::Net,
        features: bit(bits::VIRTIO_NET_F_MAC) | own,
        queue_sizes: vec![QUEUE_SIZE; 2],
        // struct virtio_net_config: the address; the rest belongs to features that are not offered.
        config: address.bytes().to_vec(),
    }
}
