//! Another range of ports for source NAT than the tables were used with.

use std::ops::RangeInclusive;

use dataplane_core::{
    abi::{Setting, map},
    model::NatPorts,
    pipeline::is_suspect,
    tables::{Family, HashTable, Moment, TableError, Tuple as _, V4, V6, WordArray as _},
};

use super::KernelTables;

/// Connections whose ports a new range leaves out: packets look for reservations within the range only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stranded {
    /// The table that has the first of them.
    pub table: &'static str,
    /// The range that they were given ports of.
    pub range: RangeInclusive<u16>,
    /// How many there are.
    pub connections: usize,
}

impl KernelTables {
    /// The connections that `ports` would leave without theirs; `None` where there are none. Those whose time is over have
    /// no answers to come, and don't count.
    ///
    /// Cost: where `ports` holds all of the range in use nothing, else a listing of both tables of reservations.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses to list them.
    pub(crate) fn stranded_by(&self, ports: NatPorts) -> Result<Option<Stranded>, TableError> {
        let word = self.config.load(Setting::NatPorts as u32, 0).unwrap_or(0);
        self.stranded_of(word, ports)
    }

    /// Sets the range of tables that are in use already, unless it would leave connections without their ports: then
    /// nothing is changed, and the answer is which. Packets that are on their way meanwhile are waited for.
    ///
    /// # Errors
    /// [`TableError`].
    pub(crate) fn replace_nat_ports(&self, ports: NatPorts) -> Result<Option<Stranded>, TableError> {
        let before = self.config.load(Setting::NatPorts as u32, 0).unwrap_or(0);
        if before == ports.word() {
            return Ok(None);
        }
        if let Some(stranded) = self.stranded_of(before, ports)? {
            return Ok(Some(stranded));
        }
        self.set_nat_ports(ports)?;
        // A packet may have taken a port of the old range since they were counted; the next one takes none.
        self.grace.wait()?;
        let stranded = self.stranded_of(before, ports)?;
        if stranded.is_some() {
            self.config.store(Setting::NatPorts as u32, &[before])?;
        }
        Ok(stranded)
    }

    fn stranded_of(&self, word: u64, ports: NatPorts) -> Result<Option<Stranded>, TableError> {
        let Some(range) = range(word) else { return Ok(None) };
        let wanted = ports.range();
        if wanted.contains(range.start()) && wanted.contains(range.end()) {
            return Ok(None);
        }
        let at = Moment::of(self);
        let v4 = count::<V4>(&self.reservations_v4.hash, &wanted, &at)?;
        let v6 = count::<V6>(&self.reservations_v6.hash, &wanted, &at)?;
        let table = if v4 > 0 { map::NAT_V4 } else { map::NAT_V6 };
        let connections = v4.saturating_add(v6);
        Ok((connections > 0).then_some(Stranded { table, range, connections }))
    }
}

/// The range that a word of the configuration says; `None` where it says none.
fn range(word: u64) -> Option<RangeInclusive<u16>> {
    let (first, count) = (word & 0xffff, word >> 16);
    let last = first.checked_add(count)?.checked_sub(1)?;
    let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
    (count > 0).then_some(first..=last)
}

/// How many reservations live and have a port outside of a range.
fn count<F: Family>(
    table: &dyn HashTable<F::Tuple, F::Flow>,
    range: &RangeInclusive<u16>,
    at: &Moment,
) -> Result<usize, TableError> {
    let mut count = 0usize;
    for entry in table.entries() {
        let (tuple, flow) = entry?;
        let is_over = is_suspect::<F>(&flow, tuple.protocol(), at.now, |which| at.setting(which));
        if !is_over && !range.contains(&tuple.destination_port().get()) {
            count = count.saturating_add(1);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_it_was_written() {
        for wanted in [1024..=1024, 49_152..=65_535, 1024..=65_535] {
            assert_eq!(range(NatPorts::new(wanted.clone()).unwrap().word()), Some(wanted));
        }
        assert_eq!(range(0), None);
        assert_eq!(range(u64::MAX), None);
    }
}
