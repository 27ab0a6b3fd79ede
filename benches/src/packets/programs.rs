//! The bench programs, by name.

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The programs that write packets of this family.
    pub fn programs(self) -> &'static Programs {
        match self {
            Self::V4 => &V4,
            Self::V6 => &V6,
        }
    }
}

/// The programs of one family.
#[derive(Debug)]
#[allow(
    missing_docs,
    reason = "each is explained beside its definition, in dataplane-ebpf/programs/src/bench"
)]
pub struct Programs {
    pub prelude: &'static str,
    pub parse: &'static str,
    pub lookup: &'static str,
    pub fill: &'static str,
    pub fib: &'static str,
    pub xdp: &'static str,
    pub tc_prelude: &'static str,
    pub ingress: &'static str,
}

/// The loop around the repetitions: the only program without a prelude.
pub const EMPTY: &str = "bench_empty";

macro_rules! programs {
    ($($constant:ident = $suffix:literal;)+) => {
        $(const $constant: Programs = Programs {
            prelude: concat!("bench_prelude_", $suffix),
            parse: concat!("bench_parse_", $suffix),
            lookup: concat!("bench_lookup_", $suffix),
            fill: concat!("bench_fill_", $suffix),
            fib: concat!("bench_fib_", $suffix),
            xdp: concat!("bench_xdp_", $suffix),
            tc_prelude: concat!("bench_prelude_tc_", $suffix),
            ingress: concat!("bench_ingress_", $suffix),
        };)+

        /// All of them.
        pub const ALL: &[&str] = &[
            EMPTY,
            $($constant.prelude, $constant.parse, $constant.lookup, $constant.fill, $constant.fib, $constant.xdp,
              $constant.tc_prelude, $constant.ingress,)+
        ];
    };
}

programs! {
    V4 = "v4";
    V6 = "v6";
}
