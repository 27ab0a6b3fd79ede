//! Backends held for services that wait for room.

use super::Ledger;
use crate::{
    compile::{Loss, shares},
    model::{IpFamily, Service},
    state::ServiceId,
};

/// What is held for a service that waits for room.
#[derive(Debug)]
pub(super) struct Reserved {
    family: IpFamily,
    backends: Vec<u32>,
}

impl Ledger {
    /// Holds the backends that stand for a service that waits for room and names them: they keep their places, whoever
    /// else lets them go meanwhile.
    pub(super) fn reserve(&mut self, id: ServiceId, service: &Service) {
        let family = service.family();
        let mut backends = Vec::new();
        for share in shares(service) {
            let pool = self.backends(family);
            if pool.has_place(&share.backend)
                && let Ok(index) = pool.hold(share.backend, false)
            {
                backends.push(index);
            }
        }
        if !backends.is_empty() {
            self.reserved.insert(id, Reserved { family, backends });
        }
    }

    pub(super) fn let_reserved_go(&mut self, reserved: Option<Reserved>) {
        let Some(Reserved { family, backends }) = reserved else {
            return;
        };
        for index in backends {
            // No packet sees it through this: nothing waits for a grace period.
            if self.backends(family).let_go(index, false) == Loss::LastHolder {
                self.unheld.add(family, index);
            }
        }
    }

    /// A service was refused for good: nothing is held for it any more.
    pub fn give_up(&mut self, id: ServiceId) {
        let reserved = self.reserved.remove(&id);
        self.let_reserved_go(reserved);
    }
}
