//! Places in an array.

/// Gives out indexes, those first that were given back last.
#[derive(Debug)]
pub(crate) struct Indexes {
    next: u32,
    capacity: u32,
    returned: Vec<u32>,
}

impl Indexes {
    pub fn new(capacity: u32) -> Self {
        Self { next: 0, capacity, returned: Vec::new() }
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    pub fn taken(&self) -> u32 {
        self.next - self.returned.len() as u32
    }

    pub fn free(&self) -> u32 {
        self.capacity - self.taken()
    }

    pub fn take(&mut self) -> Option<u32> {
        self.returned.pop().or_else(|| {
            let index = self.next;
            (index < self.capacity).then(|| {
                self.next += 1;
                index
            })
        })
    }

    pub fn give_back(&mut self, index: u32) {
        self.returned.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_given_out_once() {
        let mut indexes = Indexes::new(2);
        assert_eq!([indexes.take(), indexes.take(), indexes.take()], [Some(0), Some(1), None]);
        indexes.give_back(0);
        assert_eq!((indexes.taken(), indexes.free()), (1, 1));
        assert_eq!([indexes.take(), indexes.take()], [Some(0), None]);
    }
}
