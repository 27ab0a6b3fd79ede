//! An uplink whose interface went and came back: unplugged, or made anew under its name.

use dataplane_core::abi::INTERFACE_PLACES;

use crate::{
    EbpfDataplane, Error,
    attach::{Attached, Standing},
    dataplane::{introduce, programs},
};

/// Other uplinks, by index and name.
pub(crate) type Others = [(u32, String)];

impl EbpfDataplane {
    /// Attaches to the interface that has the name of one that is gone, where there is one again, and tells whether it did.
    ///
    /// Only on a thread in the dataplane's own network namespace: attaching names an interface by its index, which means
    /// another one elsewhere.
    ///
    /// # Errors
    /// As of opening. The uplink is as it was then, and is tried again the next time.
    pub(crate) fn reattach(&self, gone: &mut Attached, others: &Others) -> Result<bool, Error> {
        gone.look(&self.network)?;
        if gone.report.standing != Standing::InterfaceGone || !self.network.is_of_this_thread() {
            return Ok(false);
        }
        let link = match self.network.link(&gone.report.interface) {
            Ok(link) => link,
            Err(Error::InterfaceMissing { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let interface = link.name.clone();
        if !link.is_ethernet() {
            return Err(Error::InterfaceNotEthernet { interface, kind: link.link_type });
        }
        let place = |index| index % INTERFACE_PLACES;
        if let Some((other_index, other)) =
            others.iter().find(|(index, _)| place(*index) == place(link.index))
        {
            let (other, other_index) = (other.clone(), *other_index);
            return Err(Error::InterfaceSlotTaken { interface, index: link.index, other, other_index });
        }
        self.tables.clear_interface(gone.report.index)?;
        introduce(&self.tables, &self.network, &gone.uplink, &link)?;
        let attached = Attached::new(self.means(programs(&self.ebpf)?), &gone.uplink, &link);
        if attached.is_err() {
            self.tables.clear_interface(link.index)?;
        }
        *gone = attached?;
        tracing::info!(
            interface,
            index = link.index,
            "the interface is back, and our programs stand on it again"
        );
        Ok(true)
    }
}
