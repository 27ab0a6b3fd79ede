//! How a service chooses among its backends.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// How the backend of a new flow is chosen. Whoever has a flow keeps its backend, however it was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Choice {
    /// At random, by weight. Costs one word of the slot table for each unit of weight.
    #[default]
    Random,
    /// By a hash of the flow's addresses, ports and protocol, in a table that hosts with the same backends and the same
    /// [seed](crate::control::ControllerBuilder::maglev_seed) have alike: whichever of them a packet comes to, the backend
    /// is the same. Costs two bytes for each place of the table and one word for each backend.
    Maglev(MaglevSize),
}

/// How many places a Maglev table has: a prime number.
///
/// The more places there are for each backend, the finer are the shares, and the less changes hands when a backend comes
/// or goes: a hundred places a backend are a good measure. The default is 16381.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MaglevSize(u16);

impl MaglevSize {
    /// The largest size: 65521, the largest prime number of 16 bits.
    ///
    /// A place is 16 bits wide, and names one of at most as many backends as there are places.
    pub const MAX: Self = Self(LARGEST);

    /// Checks and makes a size. Cost: some hundred divisions.
    ///
    /// # Errors
    /// [`ModelError::MaglevTooLarge`] over [`MaglevSize::MAX`]; [`ModelError::MaglevNoPrime`].
    pub fn new(places: u32) -> Result<Self, ModelError> {
        match u16::try_from(places) {
            Ok(narrow) if narrow <= LARGEST => match is_prime(narrow) {
                true => Ok(Self(narrow)),
                false => Err(ModelError::MaglevNoPrime { places, next: next_prime(narrow) }),
            },
            _ => Err(ModelError::MaglevTooLarge { places }),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

const LARGEST: u16 = 65_521;

impl Default for MaglevSize {
    fn default() -> Self {
        Self(16_381)
    }
}

impl TryFrom<u32> for MaglevSize {
    type Error = ModelError;

    fn try_from(places: u32) -> Result<Self, ModelError> {
        Self::new(places)
    }
}

impl From<MaglevSize> for u32 {
    fn from(size: MaglevSize) -> Self {
        size.0.into()
    }
}

fn is_prime(number: u16) -> bool {
    let number = u32::from(number);
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}

/// The smallest prime number above one that is none. There is one: [`LARGEST`] is prime.
fn next_prime(number: u16) -> u16 {
    (number..=LARGEST).find(|&candidate| is_prime(candidate)).unwrap_or(LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_prime_and_fit_16_bits() {
        // A sieve is the oracle.
        let mut composite = vec![false; 65_536];
        for number in 2..65_536usize {
            if !composite[number] {
                (number * number..65_536).step_by(number).for_each(|multiple| composite[multiple] = true);
            }
        }
        for number in 0..70_000u32 {
            let prime = (2..=65_521).contains(&number) && !composite[number as usize];
            match MaglevSize::new(number) {
                Ok(size) => assert!(prime && u32::from(size.get()) == number, "{number}"),
                Err(ModelError::MaglevNoPrime { places, next }) => {
                    assert!(!prime && places == number && number <= 65_521);
                    let least = (number as usize..).find(|&n| n >= 2 && !composite[n]);
                    assert_eq!(Some(usize::from(next)), least);
                }
                Err(error) => {
                    assert!(number > 65_521);
                    assert_eq!(error, ModelError::MaglevTooLarge { places: number });
                }
            }
        }
        assert_eq!(MaglevSize::new(16_381), Ok(MaglevSize::default()));
    }
}
