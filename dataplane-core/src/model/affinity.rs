//! Affinity: clients that come to the same backend again.

use serde::Serialize;

use super::ModelError;

/// Whether a service's clients come to the same backend again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Affinity {
    /// Each connection is chosen for. The default.
    #[default]
    None,
    /// All connections of one address to one frontend come to one backend, as long as that takes new connections at this
    /// service, and until the address has opened none for the time-out. Only opening counts: what a connection that stands
    /// carries keeps nothing alive.
    ClientIp {
        /// How long a client is remembered after it last opened a connection.
        timeout: AffinityTimeout,
    },
}

/// How long a client is remembered: whole seconds, from 1 to a week.
///
/// ```
/// use dataplane_core::model::AffinityTimeout;
///
/// assert_eq!(AffinityTimeout::default().seconds(), 10_800);
/// assert!(AffinityTimeout::new(0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AffinityTimeout(u32);

impl AffinityTimeout {
    /// A week.
    pub const MAX: Self = Self(7 * 86_400);

    /// Checks and makes a time-out.
    ///
    /// # Errors
    /// [`ModelError::AffinityTimeout`] for 0, and for more than [`Self::MAX`].
    pub const fn new(seconds: u32) -> Result<Self, ModelError> {
        if seconds == 0 || seconds > Self::MAX.0 {
            return Err(ModelError::AffinityTimeout { seconds });
        }
        Ok(Self(seconds))
    }

    /// The seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for AffinityTimeout {
    /// Three hours, as Kubernetes has it.
    fn default() -> Self {
        Self(10_800)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_second_to_a_week() {
        for seconds in [1, 10_800, 604_800] {
            assert_eq!(AffinityTimeout::new(seconds).unwrap().seconds(), seconds);
        }
        for seconds in [0, 604_801, u32::MAX] {
            assert_eq!(AffinityTimeout::new(seconds), Err(ModelError::AffinityTimeout { seconds }));
        }
    }
}
