//! Offloads of an interface, by the ethtool ioctl.

use std::io;

use super::{Interface, NetError, sys};

/// What a network card, or the kernel in its stead, may do later than the stack.
///
/// On a veth, frames from a local socket carry unfinished transport checksums and up to 64 KiB in one piece while
/// these are on. XDP sees neither mark: switch the *senders'* [`Offload::TxChecksum`] off before
/// XDP rewrites their frames, and [`Offload::Gro`] on at the end that XDP redirects *to* if it has no XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Offload {
    /// Transport checksums are finished after the stack. Off takes segmentation offloads off with it.
    TxChecksum,
    /// Received transport checksums are not looked at again.
    RxChecksum,
    /// TCP segments are cut after the stack.
    Tso,
    /// Segments are cut in software right before the driver.
    Gso,
    /// Received segments are joined; on a veth it also makes the end take redirected XDP frames.
    Gro,
    /// A frame may lie in several pieces of memory.
    ScatterGather,
}

impl Offload {
    /// linux/ethtool.h: the commands that read and write it.
    const fn commands(self) -> (u32, u32) {
        match self {
            Self::RxChecksum => (0x14, 0x15),
            Self::TxChecksum => (0x16, 0x17),
            Self::ScatterGather => (0x18, 0x19),
            Self::Tso => (0x1e, 0x1f),
            Self::Gso => (0x23, 0x24),
            Self::Gro => (0x2b, 0x2c),
        }
    }
}

impl Interface {
    /// Whether an offload is on.
    ///
    /// # Errors
    /// [`NetError::Ethtool`], ENODEV where the interface is gone.
    pub fn offload(&self, offload: Offload) -> Result<bool, NetError> {
        let (get, _) = offload.commands();
        Ok(self.ethtool(format!("get {offload:?}"), get, 0)? != 0)
    }

    /// Switches an offload on or off, and makes sure that it is.
    ///
    /// # Errors
    /// [`NetError::Ethtool`], EOPNOTSUPP where the driver can't, or where the kernel leaves it since another one that
    /// it needs is off ([`Offload::Tso`] needs [`Offload::TxChecksum`] and [`Offload::ScatterGather`]).
    pub fn set_offload(&self, offload: Offload, on: bool) -> Result<(), NetError> {
        let (get, set) = offload.commands();
        let operation = format!("set {offload:?} {}", if on { "on" } else { "off" });
        self.ethtool(operation.clone(), set, on.into())?;
        // The kernel answers "done" also where it could not.
        if (self.ethtool(operation.clone(), get, 0)? != 0) == on {
            return Ok(());
        }
        Err(self.ethtool_error(operation, io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
    }

    fn ethtool(&self, operation: String, command: u32, value: u32) -> Result<u32, NetError> {
        self.namespace()
            .run(|| sys::ethtool_value(self.name(), command, value))
            .map_err(|source| self.ethtool_error(operation, source))
    }

    fn ethtool_error(&self, operation: String, source: io::Error) -> NetError {
        NetError::Ethtool {
            operation,
            interface: self.name().to_owned(),
            namespace: self.namespace().label().to_owned(),
            source,
        }
    }
}
