//! Debian's kernels, unpacked but not installed, with their modules.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{machine, process, repo};

/// The kernels that every program is verified on: a name, and the package that depends on the newest build.
pub const KERNELS: [(&str, &str); 2] =
    [("6.1", "linux-image-cloud-amd64"), ("6.12", "linux-image-6.12-cloud-amd64")];

/// An unpacked kernel package.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    folder: PathBuf,
}

impl Kernel {
    /// Fetches the kernel that `meta_package` depends on, unless it is in the cache below cargo's target folder.
    pub fn fetch(meta_package: &str) -> Result<Self> {
        // A machine may have no package lists yet, or such old ones that they name what is gone.
        Self::fetch_by_lists(meta_package).or_else(|error| {
            if !machine::is_root() {
                return Err(error.context("is `apt-get update` due?"));
            }
            process::run(Command::new("apt-get").args(["update", "--quiet=2"]))?;
            Self::fetch_by_lists(meta_package)
        })
    }

    fn fetch_by_lists(meta_package: &str) -> Result<Self> {
        let depends =
            process::output(Command::new("apt-cache").args(["depends", "--important", meta_package]))?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .with_context(|| format!("apt knows no package {meta_package}"))?;
        let release = package.strip_prefix("linux-image-").unwrap_or(package).to_owned();
        Ok(Self { folder: unpacked(package)?, release })
    }

    /// The kernel's image.
    pub fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// These modules and all that they depend on, as (name, contents), in an order in which they can be inserted.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut wanted: VecDeque<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut found: Vec<(String, Vec<u8>)> = Vec::new();
        while let Some(name) = wanted.pop_front() {
            // Seen again: somebody later needs it, so it has to come still earlier.
            if let Some(at) = found.iter().position(|(seen, _)| *seen == name) {
                let module = found.remove(at);
                wanted.extend(dependencies(&module.1));
                found.push(module);
                continue;
            }
            let contents = read_module(&self.find_module(&name)?)?;
            wanted.extend(dependencies(&contents));
            found.push((name, contents));
        }
        found.reverse();
        Ok(found)
    }

    fn find_module(&self, name: &str) -> Result<PathBuf> {
        let mut folders = vec![self.folder.join("lib/modules").join(&self.release).join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if module_name(&path).as_deref() == Some(name) {
                    return Ok(path);
                }
            }
        }
        bail!("kernel {} has no module {name} (it may be built in)", self.release)
    }
}

/// `kernel/net/sched/sch-ingress.ko.xz` is the module `sch_ingress`.
fn module_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.split_once(".ko")?.0.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output();
        let output = output.context("cannot start xz (package xz-utils)")?;
        if !output.status.success() {
            bail!("xz can't unpack {}", path.display());
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A module's section `.modinfo` has a string `depends=a,b`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value).replace('-', "_");
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Debian's static busybox, from its package; it need not be installed.
pub fn busybox() -> Result<Vec<u8>> {
    let folder = unpacked("busybox-static")?;
    let candidates = [folder.join("bin/busybox"), folder.join("usr/bin/busybox")];
    let path =
        candidates.iter().find(|path| path.is_file()).context("package busybox-static has no busybox")?;
    Ok(fs::read(path)?)
}

/// Downloads a Debian package and unpacks it into the cache; returns the folder. Needs no root.
fn unpacked(package: &str) -> Result<PathBuf> {
    let cache = repo::target().join("debian");
    let folder = cache.join(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    // apt-get writes into the current folder. What is there under its final name is complete.
    let download = cache.join(format!("{package}.part"));
    if download.exists() {
        fs::remove_dir_all(&download)?;
    }
    fs::create_dir_all(&download)?;
    process::output(Command::new("apt-get").args(["--quiet", "download", package]).current_dir(&download))?;
    let archive = fs::read_dir(&download)?.next().context("apt-get downloaded nothing")??.path();
    let contents = download.join("contents");
    process::output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&contents))?;
    fs::rename(&contents, &folder)?;
    fs::remove_dir_all(&download)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        assert_eq!(module_name(Path::new("a/cls-bpf.ko.xz")), Some("cls_bpf".into()));
        assert_eq!(module_name(Path::new("a/veth.ko")), Some("veth".into()));
        assert_eq!(module_name(Path::new("a/modules.order")), None);
    }

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(
            dependencies(b"x\0license=GPL\0depends=nf-tables,crc32c\0name=y\0"),
            ["nf_tables", "crc32c"]
        );
        assert!(dependencies(b"x\0depends=\0retpoline=Y\0").is_empty());
    }
}
