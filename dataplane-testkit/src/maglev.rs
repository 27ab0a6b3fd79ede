//! Maglev tables made slowly and obviously, to hold the fast way to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// The backend at each place of a table of `size` places, from backends and their weights in any order.
///
/// Every permutation is written out, every turn is counted in whole numbers, and a free place is looked for from the
/// first preference on. Cost: the number of backends times `size`, in memory too.
///
/// # Panics
/// Where a backend is named twice.
pub fn slow_table(size: u16, seed: u64, backends: &[(SocketAddr, u16)]) -> Vec<SocketAddr> {
    let mut weights: BTreeMap<(IpAddr, u16), u64> = BTreeMap::new();
    for (address, weight) in backends.iter().filter(|(_, weight)| *weight > 0) {
        let before = weights.insert((address.ip(), address.port()), u64::from(*weight));
        assert!(before.is_none(), "{address} is named twice");
    }
    let Some(&heaviest) = weights.values().max() else {
        return Vec::new();
    };
    let preferences: Vec<Vec<usize>> =
        weights.keys().map(|&(address, port)| permutation(size.into(), seed, address, port)).collect();

    let mut owners: Vec<Option<SocketAddr>> = vec![None; size.into()];
    for round in 0u64.. {
        for (order, (&(address, port), weight)) in preferences.iter().zip(&weights) {
            let turns = |rounds: u64| (rounds * weight).div_ceil(heaviest);
            for _ in turns(round)..turns(round + 1) {
                let Some(&place) = order.iter().find(|&&place| owners[place].is_none()) else {
                    return owners.into_iter().flatten().collect();
                };
                owners[place] = Some(SocketAddr::new(address, port));
            }
        }
    }
    unreachable!("each round has a turn at least");
}

/// A backend's order of preference.
fn permutation(size: usize, seed: u64, address: IpAddr, port: u16) -> Vec<usize> {
    let octets = match address {
        IpAddr::V4(v4) => [&[0; 12][..], &v4.octets()].concat(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let number = |octets: &[u8]| octets.iter().fold(0u128, |number, &octet| number * 256 + u128::from(octet));
    let name = mix(mix(mix(seed.into(), number(&octets[..8])), number(&octets[8..])), port.into());
    let (offset, skip) = (mix(name, 1) % size as u128, mix(name, 2) % (size as u128 - 1) + 1);
    (0..size as u128).map(|step| ((offset + step * skip) % size as u128) as usize).collect()
}

/// SplitMix64's finaliser, in arithmetic that does not wrap.
fn mix(state: u128, word: u128) -> u128 {
    const RANGE: u128 = 1 << 64;
    let mut mixed = ((state ^ word) + 0x9e37_79b9_7f4a_7c15) % RANGE;
    mixed = ((mixed ^ (mixed / (1 << 30))) * 0xbf58_476d_1ce4_e5b9) % RANGE;
    mixed = ((mixed ^ (mixed / (1 << 27))) * 0x94d0_49bb_1331_11eb) % RANGE;
    mixed ^ (mixed / (1 << 31))
}
