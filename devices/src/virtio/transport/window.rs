//! The window through configuration space to the BAR (virtio 1.2, 4.1.4.9): for who cannot reach memory yet.

use crate::pci::config::{touches, ConfigError, ConfigSpace};

use super::layout;

/// Offsets in struct virtio_pci_cap.
const BAR: usize = 4;
const OFFSET: usize = 8;
const LENGTH: usize = 12;
const DATA: usize = 16;
const DATA_BYTES: usize = 4;

/// Where the window's capability is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window(usize);

impl Window {
    pub(super) fn add_capability(config: &mut ConfigSpace) -> Result<Self, ConfigError> {
        let at = config.add_capability(layout::VENDOR_CAPABILITY, &layout::window_capability())?;
        config.allow(at + BAR, &[0xff]);
        config.allow(at + OFFSET, &[0xff; 8]);
        config.allow(at + DATA, &[0xff; DATA_BYTES]);
        Ok(Window(at))
    }

    /// What an access to configuration space at `offset` means in the BAR: its offset and length there, if the access
    /// begins at the window's data and the driver has set the window as it must.
    pub(super) fn target(self, config: &ConfigSpace, offset: usize, bytes: usize) -> Option<(u64, usize)> {
        let Window(at) = self;
        let (place, length) = (config.word(at + OFFSET), config.word(at + LENGTH) as usize);
        let is_data = offset == at + DATA && touches(offset, bytes, at + DATA, DATA_BYTES);
        let is_set = usize::from(config.half(at + BAR) as u8) == layout::BAR
            && matches!(length, 1 | 2 | 4)
            && (place as usize).is_multiple_of(length)
            && u64::from(place) < layout::BAR_BYTES;
        (is_data && is_set && bytes >= length).then_some((place.into(), length))
    }
}
