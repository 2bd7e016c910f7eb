//! Which endpoint of a group is tried.

/// One endpoint, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Exchanges it has now, of this core.
    pub in_flight: u32,
    /// It could not be reached a moment ago. (It has the fewest exchanges then, and would draw all
    /// of the others' away if it were asked first.)
    pub rests: bool,
}

/// The number of the endpoint to try: one that this exchange has not tried (bit n of `tried`), that
/// does not rest, that has the fewest exchanges; of equals the next in turn. 0 where there is none.
pub fn select(loads: impl IntoIterator<Item = Load>, tried: u64, turn: usize) -> usize {
    let loads: Vec<Load> = loads.into_iter().collect();
    let count = loads.len().max(1);
    let rank = |n: &usize| {
        let load = loads[*n];
        let was_tried = tried >> (*n).min(63) & 1 == 1;
        (was_tried, load.rests, load.in_flight, (*n + count - turn % count) % count)
    };
    (0..loads.len()).min_by_key(rank).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(in_flight: u32) -> Load {
        Load { in_flight, rests: false }
    }

    #[test]
    fn the_least_busy_is_taken_and_equals_take_turns() {
        assert_eq!(select([load(2), load(1), load(3)], 0, 0), 1);
        let turns: Vec<_> =
            (0..5).map(|turn| select([load(1), load(1), load(1)], 0, turn)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1]);
        assert_eq!(select([load(7)], 1, 9), 0);
        assert_eq!(select([], 0, 0), 0);
    }

    #[test]
    fn what_was_tried_or_rests_comes_last() {
        let resting = Load { in_flight: 0, rests: true };
        assert_eq!(select([resting, load(9)], 0, 0), 1);
        assert_eq!(select([resting, load(9)], 0b10, 0), 0, "rather one that rests than one tried");
        assert_eq!(select([load(0), load(9), load(8)], 0b001, 0), 2);
        assert_eq!(select([load(1), load(0)], 0b11, 0), 1, "where all were tried, any");
    }
}
