//! Disks with a Debian system, and programs in it that check themselves: made from Debian's packages, kept below
//! `target/lab/images`.

mod build;
mod recipe;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

pub use recipe::{Recipe, RECIPES};

use crate::paths;

/// An image that is there.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// Finds the image of a recipe, or makes it.
    ///
    /// # Errors
    /// When it cannot be made: that needs root and Debian's packages.
    pub fn get(recipe: &Recipe) -> Result<Self> {
        let images = paths::lab_cache().join("images");
        let image = Self { folder: images.join(format!("{}-{}", recipe.name, recipe.mark())) };
        if image.disk().is_file() {
            return Ok(image);
        }
        let work = images.join(format!(".{}.{}", recipe.name, std::process::id()));
        paths::make_dir(&work)?;
        let made = build::build(recipe, &work).and_then(|()| {
            forget_older(recipe);
            fs::rename(&work, &image.folder)
                .with_context(|| format!("cannot make {}", image.folder.display()))
        });
        if made.is_err() {
            let _ = fs::remove_dir_all(&work);
        }
        made.map(|()| image)
    }

    /// The disk, a raw image.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// Its kernel.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// What its kernel boots from.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }
}

/// Removes images of older versions of a recipe.
fn forget_older(recipe: &Recipe) {
    let prefix = format!("{}-", recipe.name);
    let Ok(entries) = fs::read_dir(paths::lab_cache().join("images")) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        // What stays is in nobody's way.
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Options of `cargo xtask image`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask image\n  cargo xtask image debian\n\n\
    An image is made once and kept until what it is made of changes; its disk, kernel and initramfs are named. To log in (root, \
    password `tessera`), over two hosts, with those three names:\n  \
    cargo xtask lab run --host-disk DISK --kernel KERNEL --initramfs INITRAMFS \\\n    \
    --cmdline 'console=ttyS0 root=/dev/vda rw maxcpus=1' -- --disk path=/dev/vda,image_type=raw")]
pub struct Args {
    /// Which image; all are listed without it.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(RECIPES.iter().map(|recipe| recipe.name)))]
    name: Option<String>,
}

/// Carries out the verb.
///
/// # Errors
/// When the image cannot be made.
pub fn main(options: &Args) -> Result<()> {
    let Some(recipe) = options.name.as_deref().and_then(Recipe::named) else {
        for recipe in &RECIPES {
            println!("{:<10} {}", recipe.name, recipe.about);
            recipe.jobs.iter().for_each(|job| println!("  {:<10} {}", job.name, job.about));
        }
        return Ok(());
    };
    let image = Image::get(recipe)?;
    for path in [image.disk(), image.kernel(), image.initramfs()] {
        println!("{}", path.display());
    }
    Ok(())
}
