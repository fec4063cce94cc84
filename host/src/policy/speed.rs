//! How long leads took, in the few numbers that people look at.

/// Of a number of deliveries, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Percentiles {
    /// Half took at most so long.
    pub p50_ms: u64,
    /// 95 of 100 took at most so long.
    pub p95_ms: u64,
    #[allow(missing_docs)]
    pub max_ms: u64,
}

impl Percentiles {
    /// Of these; zeros for none.
    pub fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let at = |percent: usize| all.get((all.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
        Self { p50_ms: at(50), p95_ms: at(95), max_ms: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
        assert_eq!(Percentiles::of(vec![7]), Percentiles { p50_ms: 7, p95_ms: 7, max_ms: 7 });
        assert_eq!(Percentiles::of((1..=100).rev().collect()), Percentiles { p50_ms: 50, p95_ms: 95, max_ms: 100 });
        assert_eq!(Percentiles::of(vec![3, 1, 2]), Percentiles { p50_ms: 2, p95_ms: 3, max_ms: 3 });
    }
}
