//! Takes the kernel proper out of a bzImage.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{bail, ensure, Context, Result};

/// Where the kernel's setup header says that the compressed kernel lies
/// (Documentation/arch/x86/boot.rst: `payload_offset`, `payload_length`, protocol 2.08 and newer).
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;

/// The kernel proper, an ELF file, from a bzImage.
///
/// # Errors
/// When this is no bzImage, or it is packed in a way that is not known here.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("this is no bzImage of protocol 2.08 or newer")?;
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("it is packed in an unknown way"),
    };
    let content = filter(program, payload)?;
    ensure!(content.starts_with(b"\x7fELF"), "what {program} unpacked is no ELF file");
    Ok(content)
}

/// The compressed kernel, without the four bytes at its end that the build adds: the unpacked size.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(*image.get(at..at + 4)?.first_chunk()?) as usize);
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let start = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512 + number(PAYLOAD_OFFSET)?;
    let end = start.checked_add(number(PAYLOAD_LENGTH)?)?.checked_sub(4)?;
    image.get(start..end)
}

fn filter(program: &str, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {program}; `cargo xtask setup` installs it"))?;
    let mut pipe = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        // A program that does not take its input has failed, and says so by its status.
        scope.spawn(move || pipe.write_all(input));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "{program} -dc: {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(packed: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend([0xaa; 16]);
        image.extend(packed);
        image.extend([1, 2, 3, 4]);
        image
    }

    #[test]
    fn the_kernel_comes_out_as_it_went_in() {
        let kernel = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let mut gzip =
            Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        gzip.stdin.take().unwrap().write_all(&kernel).unwrap();
        let packed = gzip.wait_with_output().unwrap().stdout;
        assert_eq!(unpack(&image(&packed)).unwrap(), kernel);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(unpack(b"").is_err());
        assert!(unpack(&[0; 4096]).is_err());
        assert!(unpack(&image(b"plain")).is_err());
        let mut cut = image(&[0x1f, 0x8b, 1, 2, 3]);
        cut.truncate(1040);
        assert!(unpack(&cut).is_err());
    }
}
