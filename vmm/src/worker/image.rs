//! Kernel and initramfs as they arrive at node 0.

use std::fs::File;
use std::io::{self, Seek, Write};

use rustix::fs::{memfd_create, MemfdFlags};
use thiserror::Error;

use crate::control::orders::Image;

/// Why a file was not taken.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file is too large.
    #[error("{image:?} of {bytes} bytes is larger than {most}")]
    TooLarge {
        /// Which file.
        image: Image,
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// The file was sent before.
    #[error("{0:?} was sent twice")]
    Twice(Image),
    /// Bytes came that belong to no file, or more than were announced.
    #[error("more bytes than were announced")]
    Surplus,
    /// The file before is not whole.
    #[error("{0:?} is not whole: {1} bytes are missing")]
    Incomplete(Image, u64),
    /// There is no kernel.
    #[error("no kernel was sent")]
    NoKernel,
    /// There is no memory for the file.
    #[error("cannot keep {0:?}: {1}")]
    Io(Image, io::Error),
}

/// The files, in memory that is given back with them.
#[derive(Debug, Default)]
pub struct Images {
    kernel: Option<File>,
    initramfs: Option<File>,
    arriving: Option<(Image, u64)>,
}

impl Images {
    fn slot(&mut self, image: Image) -> &mut Option<File> {
        match image {
            Image::Kernel => &mut self.kernel,
            Image::Initramfs => &mut self.initramfs,
        }
    }

    /// A file of `bytes` follows.
    ///
    /// # Errors
    /// When it is too large, comes twice, or the one before is not whole.
    pub fn begin(&mut self, image: Image, bytes: u64) -> Result<(), ImageError> {
        self.whole()?;
        if bytes > image.bytes_max() {
            return Err(ImageError::TooLarge { image, bytes, most: image.bytes_max() });
        }
        if self.slot(image).is_some() {
            return Err(ImageError::Twice(image));
        }
        let memory = memfd_create("tessera-image", MemfdFlags::CLOEXEC);
        *self.slot(image) = Some(File::from(memory.map_err(|error| ImageError::Io(image, error.into()))?));
        self.arriving = Some((image, bytes));
        Ok(())
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// When there are too many, or no memory for them.
    pub fn append(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        let Some((image, left)) = self.arriving else { return Err(ImageError::Surplus) };
        let left = left.checked_sub(chunk.len() as u64).ok_or(ImageError::Surplus)?;
        if let Some(file) = self.slot(image) {
            file.write_all(chunk).map_err(|error| ImageError::Io(image, error))?;
        }
        self.arriving = Some((image, left));
        Ok(())
    }

    fn whole(&self) -> Result<(), ImageError> {
        match self.arriving {
            Some((image, left)) if left > 0 => Err(ImageError::Incomplete(image, left)),
            _ => Ok(()),
        }
    }

    /// The kernel and the initramfs, at their first byte.
    ///
    /// # Errors
    /// When something is missing.
    pub fn finish(mut self) -> Result<(File, Option<File>), ImageError> {
        self.whole()?;
        for image in [Image::Kernel, Image::Initramfs] {
            if let Some(file) = self.slot(image) {
                file.rewind().map_err(|error| ImageError::Io(image, error))?;
            }
        }
        Ok((self.kernel.ok_or(ImageError::NoKernel)?, self.initramfs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn files_arrive_whole() {
        let mut images = Images::default();
        images.begin(Image::Kernel, 3).expect("begin");
        images.append(b"a").expect("room");
        assert!(matches!(images.begin(Image::Initramfs, 1), Err(ImageError::Incomplete(Image::Kernel, 2))));
        images.append(b"bc").expect("room");
        images.begin(Image::Initramfs, 0).expect("begin");
        let (mut kernel, initramfs) = images.finish().expect("whole");
        let mut text = String::new();
        kernel.read_to_string(&mut text).expect("read");
        assert_eq!(text, "abc");
        assert_eq!(initramfs.expect("sent").metadata().expect("stat").len(), 0);
    }

    #[test]
    fn what_was_not_announced_is_refused() {
        let mut images = Images::default();
        assert!(matches!(images.append(b"x"), Err(ImageError::Surplus)));
        assert!(matches!(images.begin(Image::Kernel, u64::MAX), Err(ImageError::TooLarge { .. })));
        images.begin(Image::Kernel, 1).expect("begin");
        assert!(matches!(images.append(b"xy"), Err(ImageError::Surplus)));
        images.append(b"x").expect("room");
        assert!(matches!(images.begin(Image::Kernel, 1), Err(ImageError::Twice(Image::Kernel))));
        assert!(matches!(Images::default().finish(), Err(ImageError::NoKernel)));
    }
}
