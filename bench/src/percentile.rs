//! Exact percentiles: every sample is kept, a run has some ten thousand.

/// Samples in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// Sorts them.
    pub fn new(mut us: Vec<u64>) -> Self {
        us.sort_unstable();
        Self(us)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least this share (0 to 1) of all is not above, in milliseconds; 0 without samples.
    pub fn ms(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).map_or(0.0, |us| *us as f64 / 1_000.0)
    }
}

/// The middle one of some figures; 0 without any.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples = Samples::new((1..=200).rev().map(|ms| ms * 1_000).collect());
        assert_eq!((samples.ms(0.0), samples.ms(0.5), samples.ms(0.99), samples.ms(1.0)), (1.0, 100.0, 198.0, 200.0));
        assert_eq!(Samples::default().ms(0.5), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
