//! What touches the system: all of this crate's unsafe code is here.
//!
//! | module | holds |
//! | --- | --- |
//! | [`bpf`] | the commands of bpf(2) that aya has no call for, on checked byte slices |
//! | [`clock`] | the clock that programs read |
//! | [`mapped`] | arrays mapped into memory, as atomic words |
//! | [`namespace`] | which network namespace a socket is of |
//! | [`poll`] | waiting for a descriptor |
//! | [`file`] | file systems |
//! | [`ethtool`] | two ioctls about network interfaces |

pub(crate) mod bpf;
pub(crate) mod clock;
pub(crate) mod ethtool;
pub(crate) mod file;
pub(crate) mod mapped;
pub(crate) mod namespace;
pub(crate) mod poll;
