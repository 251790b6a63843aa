//! Numbers that must arrive once each.

use std::ops::Range;

/// A range of numbers, and which of them have arrived.
pub struct ReceivedSet {
    range: Range<u64>,
    came: Vec<u64>,
    count: u64,
    faults: u64,
}

impl ReceivedSet {
    /// Creates a set in which no number of `range` has arrived.
    pub fn new(range: Range<u64>) -> ReceivedSet {
        let words = (range.end - range.start).div_ceil(64) as usize;
        ReceivedSet { range, came: vec![0; words], count: 0, faults: 0 }
    }

    /// Records a number.
    pub fn insert(&mut self, number: u64) {
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

    /// Returns whether all numbers have arrived.
    pub fn is_complete(&self) -> bool {
        self.count == self.range.end - self.range.start
    }

    /// Returns how many numbers are missing, repeated, or outside the range.
    pub fn faults(&self) -> u64 {
        self.range.end - self.range.start - self.count + self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_repeated_or_foreign_number_is_a_fault() {
        let check = |numbers: &[u64], expected| {
            let mut received = ReceivedSet::new(100..170);
            for &number in numbers {
                received.insert(number);
            }
            assert_eq!(received.faults(), expected, "{numbers:?}");
        };
        let all: Vec<u64> = (100..170).collect();
        check(&[], 70);
        check(&all, 0);
        check(&[&all[..], &[164]].concat(), 1);
        check(&[&all[1..], &[170, 99]].concat(), 3);
    }
}
