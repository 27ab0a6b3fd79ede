//! Waiting until every packet has left the programs.

use std::io;

use aya_obj::generated::bpf_map_type;
use dataplane_core::tables::{Cause, Operation, TableError};

use crate::sys::bpf::Map;

/// The name under which its errors are reported.
pub(super) const NAME: &str = "grace";

/// A map of maps with one place.
///
/// An update of such a map from user space returns one RCU grace period after the new map is in place
/// (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c, from 4.19 on): so that its caller may know that no program uses
/// the old one. XDP and tc programs run within an RCU read-side section, so a program that ran at the call has ended.
/// There is no command that only waits.
#[derive(Debug)]
pub(super) struct GracePeriod {
    outer: Map,
    inner: Map,
}

impl GracePeriod {
    /// Makes the map.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new() -> io::Result<Self> {
        let inner = Map::create(c"forebay_nothing", bpf_map_type::BPF_MAP_TYPE_ARRAY, (4, 8), 1, 0, None)?;
        let outer = Map::create(
            c"forebay_grace",
            bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            (4, 4),
            1,
            0,
            Some(&inner),
        )?;
        Ok(Self { outer, inner })
    }

    /// Waits for a grace period. Cost: some 10 ms, without work for the CPU.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses.
    pub(super) fn wait(&self) -> Result<(), TableError> {
        self.outer.put_map(&self.inner).map_err(|error| {
            let cause = Cause::System { errno: error.raw_os_error().unwrap_or(0) };
            TableError::new(NAME, Operation::Synchronize, cause)
        })
    }
}
