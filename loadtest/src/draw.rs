//! Pseudo-random draws that a seed repeats.

use std::time::Duration;

/// A row of draws (splitmix64).
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// The row number `row` of those of `seed`.
    pub fn new(seed: u64, row: u64) -> Self {
        let mut draws = Self(seed ^ row.wrapping_mul(0xd134_2543_de82_ef95));
        draws.bits();
        draws
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `end`; nought where that is nought.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A time until the next of events that come independently, `mean` apart on average; ten
    /// times that at most.
    pub fn wait(&mut self, mean: Duration) -> Duration {
        let unit = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        mean.mul_f64((-(1.0 - unit).ln()).clamp(0.0, 10.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_repeated_by_their_seed_and_spread_as_they_should() {
        let row = |seed, row| {
            let mut draws = Draws::new(seed, row);
            (0..4).map(|_| draws.below(1 << 40)).collect::<Vec<_>>()
        };
        assert_eq!(row(7, 3), row(7, 3));
        assert!(row(7, 3) != row(7, 4) && row(7, 3) != row(8, 3));
        let mut draws = Draws::new(1, 1);
        assert_eq!(draws.below(0), 0);
        let (mut seen, mut sum) = ([0; 4], Duration::ZERO);
        for _ in 0..40_000 {
            seen[draws.below(4) as usize] += 1;
            sum += draws.wait(Duration::from_secs(1));
        }
        assert!(seen.iter().all(|count| (9_500..10_500).contains(count)), "{seen:?}");
        let mean = sum.as_secs_f64() / 40_000.0;
        assert!((0.97..1.03).contains(&mean), "{mean}");
    }
}
