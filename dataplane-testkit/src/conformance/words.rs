//! Arrays of words, counters, and the grace period.

use std::sync::Arc;

use dataplane_core::{
    abi::{ABI_VERSION, ServiceCounters, Setting},
    tables::{Cause, Operation, Store, WordArray},
};

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case { name: "arrays begin empty and have their widths", run: begins_empty },
    Case { name: "a word is loaded as it was stored", run: stored_and_loaded },
    Case { name: "words go on over several elements", run: over_elements },
    Case { name: "nothing is stored beyond the end", run: beyond_the_end },
    Case { name: "the configuration says which layout this is", run: layout },
    Case { name: "counters are cleared, and end where the words end", run: counters },
    Case { name: "a grace period ends", run: grace },
];

fn arrays(store: &dyn Store) -> [(&dyn WordArray, u32); 4] {
    [(store.service_words(), 1), (store.slots(), 1), (store.backends_v4(), 2), (store.backends_v6(), 4)]
}

fn begins_empty(store: Arc<dyn Store>) {
    for (array, width) in arrays(&*store) {
        assert_eq!(array.width(), width, "{}", array.name());
        assert!(array.capacity() > 0);
        for index in [0, array.capacity() - 1] {
            for word in 0..width {
                assert_eq!(array.load(index, word), Some(0), "{}", array.name());
            }
        }
        assert_eq!(array.load(array.capacity(), 0), None, "{}", array.name());
    }
    assert!(store.service_words().capacity() >= store.services_v4().capacity());
}

fn stored_and_loaded(store: Arc<dyn Store>) {
    for (array, width) in arrays(&*store) {
        let last = array.capacity() - 1;
        let words: Vec<u64> = (0..u64::from(width)).map(|word| u64::MAX - word).collect();
        array.store(last, &words).expect("a store");
        array.store(0, &[7]).expect("a store");
        for (word, &stored) in words.iter().enumerate() {
            assert_eq!(array.load(last, word as u32), Some(stored), "{}", array.name());
        }
        // One word of several leaves the others alone.
        assert_eq!(array.load(0, 0), Some(7));
        array.store(last, &[1]).expect("a store");
        assert_eq!(array.load(last, 0), Some(1));
        if width > 1 {
            assert_eq!(array.load(last, 1), Some(words[1]), "{}", array.name());
        }
        array.store(1, &[]).expect("a store of nothing");
    }
}

fn over_elements(store: Arc<dyn Store>) {
    for (array, width) in arrays(&*store) {
        let words: Vec<u64> = (1..=u64::from(width) * 3).collect();
        array.store(4, &words).expect("a store");
        let stored: Vec<u64> = (4..7)
            .flat_map(|index| (0..width).map(move |word| (index, word)))
            .map(|(index, word)| array.load(index, word).expect("a word"))
            .collect();
        assert_eq!(stored, words, "{}", array.name());
        assert_eq!((array.load(3, 0), array.load(7, 0)), (Some(0), Some(0)));
    }
}

fn beyond_the_end(store: Arc<dyn Store>) {
    for (array, width) in arrays(&*store) {
        let capacity = array.capacity();
        let too_many = vec![9; width as usize + 1];
        for (index, words) in [(capacity, &[9][..]), (capacity - 1, &too_many), (u32::MAX, &[9])] {
            let error = array.store(index, words).expect_err("there is no such element");
            assert_eq!((error.table, error.operation), (array.name(), Operation::Store));
            assert_eq!(error.cause, Cause::OutOfRange { index, capacity });
        }
        assert_eq!(
            array.load(capacity - 1, 0),
            Some(0),
            "{}: a store that failed was done in part",
            array.name()
        );
    }
}

fn layout(store: Arc<dyn Store>) {
    assert_eq!(store.config().load(Setting::AbiVersion as u32, 0), Some(ABI_VERSION));
}

fn counters(store: Arc<dyn Store>) {
    let last = store.service_words().capacity() - 1;
    for index in [0, last] {
        store.counters().clear_service(index).expect("counters of every word");
        assert_eq!(store.counters().service(index), Ok(ServiceCounters::default()));
    }
    for cause in [
        store.counters().service(last + 1).expect_err("no such counters").cause,
        store.counters().clear_service(last + 1).expect_err("no such counters").cause,
    ] {
        assert_eq!(cause, Cause::OutOfRange { index: last + 1, capacity: last + 1 });
    }
}

fn grace(store: Arc<dyn Store>) {
    for _ in 0..3 {
        store.synchronize().expect("a grace period");
    }
}
