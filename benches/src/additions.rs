//! Additions that the compiler leaves alone. This crate's only unsafe code.
#![allow(unsafe_code)]

/// Eight additions a round to four registers, in which two neighbours don't wait for each other.
#[cfg(target_arch = "x86_64")]
pub(crate) fn run(rounds: u32) {
    let (mut a, mut b, mut c, mut d) = (0u64, 0u64, 0u64, 0u64);
    for _ in 0..rounds {
        // SAFETY: changes the named registers and the flags, nothing else.
        unsafe {
            std::arch::asm!(
                "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1",
                "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1",
                a = inout(reg) a, b = inout(reg) b, c = inout(reg) c, d = inout(reg) d,
                options(nomem, nostack),
            );
        }
    }
    std::hint::black_box((a, b, c, d));
}

/// Through memory, on other processors: not as wide, but it shares the core's width all the same.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(rounds: u32) {
    let mut sums = [0u64; 4];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
    std::hint::black_box(sums);
}
