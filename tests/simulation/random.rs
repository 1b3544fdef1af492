//! Numbers drawn one after the other from a seed.

/// `SplitMix64`, and what all that was drawn comes to.
pub(crate) struct Random {
    state: u64,
    drawn: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, drawn: 0 }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = (mixed ^ (mixed >> 31)) % bound as u64;
        self.drawn = (self.drawn ^ (drawn + 1)).wrapping_mul(0x0000_0100_0000_01b3);
        self.drawn ^= self.drawn >> 29;
        usize::try_from(drawn).unwrap()
    }

    /// Hash of all that was drawn, which is the schedule.
    pub(crate) fn schedule(&self) -> u64 {
        self.drawn
    }
}
