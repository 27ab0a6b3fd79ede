//! A virtual machine that boots a kernel, runs a few commands and ends.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cpio::Archive,
    debian_kernel::{self, Kernel},
    repo,
};

/// What a virtual machine holds and does.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    /// Files of this machine and their names in the guest's root folder; programs must be linked statically.
    pub files: &'a [(PathBuf, &'a str)],
    /// Modules to insert; their dependencies are found.
    pub modules: &'a [&'a str],
    /// Lines of shell, run in the root folder. The first one that fails ends the guest.
    pub commands: &'a [String],
    /// After so long the guest is ended, and that is an error.
    pub time_limit: Duration,
}

/// The first process of the guest. Its last line tells how the commands ended.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
# The firmware leaves its traces on the line.
echo
for module in $(cat /modules/order); do insmod /modules/$module || echo \"guest: no module $module\"; done
cd /
sh -e /commands
echo \"guest: commands ended with $?\"
poweroff -f
";

const ENDING: &str = "guest: commands ended with ";

impl Guest<'_> {
    /// Boots, and returns the lines that the guest printed. Any failure in it is an error that holds those lines.
    pub fn run(&self) -> Result<Vec<String>> {
        let initramfs = repo::target().join(format!("debian/initramfs-{}.cpio", self.kernel.release));
        fs::write(&initramfs, self.initramfs()?)?;
        let lines = self.boot(&initramfs)?;
        let ending = lines.iter().find_map(|line| line.strip_prefix(ENDING));
        match ending {
            Some("0") => Ok(lines),
            Some(status) => bail!("status {status} in the guest:\n{}", lines.join("\n")),
            None => bail!("the guest did not come to its end:\n{}", lines.join("\n")),
        }
    }

    fn initramfs(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["bin", "proc", "sys", "dev", "tmp", "run", "modules"] {
            archive.folder(folder);
        }
        archive.file("bin/busybox", &debian_kernel::busybox()?);
        archive.file("init", INIT.as_bytes());
        archive.file("commands", self.commands.join("\n").as_bytes());
        let modules = self.kernel.modules(self.modules)?;
        let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        archive.file("modules/order", order.join("\n").as_bytes());
        for (name, contents) in &modules {
            archive.file(&format!("modules/{name}"), contents);
        }
        for (path, name) in self.files {
            archive.file(name, &fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        Ok(archive.finish())
    }

    fn boot(&self, initramfs: &Path) -> Result<Vec<String>> {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Emulated, and so the same everywhere: KVM inside a virtual machine is often half there.
        qemu.args([
            "-M",
            "q35,accel=tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1024",
            "-nodefaults",
            "-no-reboot",
        ]);
        qemu.args(["-nographic", "-serial", "stdio", "-append", "console=ttyS0 quiet loglevel=1 panic=-1"]);
        qemu.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(initramfs);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = qemu.spawn().context("cannot start qemu-system-x86_64 (package qemu-system-x86)")?;

        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().context("no pipe from qemu")?;
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + self.time_limit;
        let mut printed = Vec::new();
        let in_time = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => printed.push(line),
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !in_time {
            child.kill()?;
        }
        let result = child.wait_with_output()?;
        if reader.join().is_err() {
            bail!("the reader of qemu's output panicked");
        }
        if !in_time {
            bail!("the guest ran longer than {:?}:\n{}", self.time_limit, printed.join("\n"));
        }
        if !result.status.success() {
            bail!("qemu ended with {}: {}", result.status, String::from_utf8_lossy(&result.stderr).trim());
        }
        Ok(printed)
    }
}
