//! Who says what, and who is heard first.

use std::fmt;

use crate::model::{ModelError, ServiceName};

/// The name of a control source, which owns what it committed.
///
/// The same characters as in a [`ServiceName`]. Cloning costs a reference count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerName(ServiceName);

impl OwnerName {
    /// Checks and makes a name.
    ///
    /// # Errors
    /// [`ModelError::Name`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, ModelError> {
        ServiceName::new(name).map(Self)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for OwnerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who wins where two owners claim one frontend: the larger number. Between equal ones the owner whose name comes
/// first in the alphabet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Precedence(i32);

impl Precedence {
    /// Any number will do; the default is 0.
    pub const fn new(precedence: i32) -> Self {
        Self(precedence)
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// A service of an owner. Service names are unique only within their owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ObjectName {
    /// Who committed it.
    pub owner: OwnerName,
    /// What it is called there.
    pub service: ServiceName,
}

impl ObjectName {
    /// Puts a name together.
    pub fn new(owner: OwnerName, service: ServiceName) -> Self {
        Self { owner, service }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.service, self.owner)
    }
}
