//! Names of objects.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::ModelError;

/// The name of a service, unique within its control source.
///
/// 1 to 253 characters out of `a-z A-Z 0-9 . _ / : -`, beginning with a letter or a digit, so that
/// `namespace/name:port` is a name. Cloning costs a reference count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name, in characters.
    pub const MAX_LENGTH: usize = 253;

    /// Checks and makes a name.
    ///
    /// # Errors
    /// [`ModelError::Name`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, ModelError> {
        let refuse = |reason| Err(ModelError::Name { name: name.to_owned(), reason });
        let Some(first) = name.chars().next() else {
            return refuse("it is empty");
        };
        if name.len() > Self::MAX_LENGTH {
            return refuse("it is longer than 253 characters");
        }
        if !first.is_ascii_alphanumeric() {
            return refuse("it must begin with a letter or a digit");
        }
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._/:-".contains(c)) {
            return refuse("only letters, digits and . _ / : - are allowed");
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = ModelError;

    fn try_from(name: String) -> Result<Self, ModelError> {
        Self::new(&name)
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl std::str::FromStr for ServiceName {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for good in ["web", "a", "default/web:http", "0", "Edge_1.example-2", &"x".repeat(253)] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-web", "/web", "we b", "wéb", "web\n", &"x".repeat(254)] {
            assert!(
                matches!(ServiceName::new(bad), Err(ModelError::Name { name, .. }) if name == bad),
                "{bad:?}"
            );
        }
    }
}
