//! Places in an array.

/// Gives out indexes, those first that were given back last.
#[derive(Debug)]
pub(crate) struct Indexes {
    next: u32,
    capacity: u32,
    returned: Vec<u32>,
}

impl Indexes {
    /// Those below `next` were given out at some time, and are taken where `is_taken` says so.
    pub fn found(capacity: u32, next: u32, is_taken: impl Fn(u32) -> bool) -> Self {
        let returned = (0..next).rev().filter(|&index| !is_taken(index)).collect();
        Self { next, capacity, returned }
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
        let mut indexes = Indexes::found(2, 0, |_| false);
        assert_eq!([indexes.take(), indexes.take(), indexes.take()], [Some(0), Some(1), None]);
        indexes.give_back(0);
        assert_eq!((indexes.taken(), indexes.free()), (1, 1));
        assert_eq!([indexes.take(), indexes.take()], [Some(0), None]);
    }

    #[test]
    fn what_was_found_taken_is_not_given_out() {
        let mut indexes = Indexes::found(6, 5, |index| index == 1 || index == 4);
        assert_eq!((indexes.taken(), indexes.free()), (2, 4));
        let given = [(); 5].map(|()| indexes.take());
        assert_eq!(given, [Some(0), Some(2), Some(3), Some(5), None]);
    }
}
