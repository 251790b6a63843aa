//! Numbers that must come once each.

use std::ops::Range;

/// Which of a range of numbers have come.
pub struct Ledger {
    range: Range<u64>,
    came: Vec<u64>,
    count: u64,
    faults: u64,
}

impl Ledger {
    /// None of `range` has come.
    pub fn new(range: Range<u64>) -> Ledger {
        let words = (range.end - range.start).div_ceil(64) as usize;
        Ledger { range, came: vec![0; words], count: 0, faults: 0 }
    }

    /// Takes one down.
    pub fn take(&mut self, number: u64) {
        if !self.range.contains(&number) {
            self.faults += 1;
            return;
        }
        let at = number - self.range.start;
        let (word, bit) = (&mut self.came[(at / 64) as usize], 1 << (at % 64));
        if *word & bit != 0 {
            self.faults += 1;
            return;
        }
        *word |= bit;
        self.count += 1;
    }

    /// Whether all have come.
    pub fn is_full(&self) -> bool {
        self.count == self.range.end - self.range.start
    }

    /// How many never came, came again, or are none of these.
    pub fn faults(&self) -> u64 {
        self.range.end - self.range.start - self.count + self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_repeated_or_foreign_is_a_fault() {
        let check = |numbers: &[u64], expected| {
            let mut ledger = Ledger::new(100..170);
            for &number in numbers {
                ledger.take(number);
            }
            assert_eq!(ledger.faults(), expected, "{numbers:?}");
        };
        let all: Vec<u64> = (100..170).collect();
        check(&[], 70);
        check(&all, 0);
        check(&[&all[..], &[164]].concat(), 1);
        check(&[&all[1..], &[170, 99]].concat(), 3);
    }
}
