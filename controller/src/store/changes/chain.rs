//! Where a batch stands to what is known of its epoch: pure, so that every case can be read and tested without a database.

use pureboot_protocol::{ChainHash, ChangeBatch, ChangeHead};
use sha2::{Digest, Sha256};

/// How far an outbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// The last change in custody; 0 for none.
    pub(super) acked_through: u64,
    /// Its link; none where an earlier version of this program has taken it.
    pub(super) hash: Option<ChainHash>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is taken, as what follows the chain.
    Fits(Chain),
    /// It is taken, and what lies between is lost: after a restore, what the agent does not have any more.
    Lost(Chain),
    /// It is not taken: what comes before it is waited for.
    Behind,
    /// The epoch has gone another way here.
    Forked,
}

impl Chain {
    /// The link that an agent is told.
    pub(super) fn link(self) -> ChainHash {
        self.hash.unwrap_or(ChainHash::GENESIS)
    }

    /// The chain after the change `head`.
    pub(super) fn after(self, head: &ChangeHead) -> Self {
        Self { acked_through: head.seq, hash: Some(link(self.link(), head)) }
    }

    /// Where `batch` with the changes `heads` stands; `is_rewound` after a restore from which nothing has come yet.
    pub(super) fn place<I>(
        self,
        batch: &ChangeBatch<I>,
        heads: &[ChangeHead],
        is_rewound: bool,
    ) -> Place {
        let Some(overlap) = self.acked_through.saturating_add(1).checked_sub(batch.first_seq)
        else {
            let has_older = batch.low_water.is_some_and(|oldest| oldest < batch.first_seq);
            if !is_rewound || has_older || heads.is_empty() {
                return Place::Behind;
            }
            return Place::Lost(Self { acked_through: batch.first_seq - 1, hash: batch.prev_hash });
        };
        let (Some(before), Ok(overlap)) = (batch.prev_hash, usize::try_from(overlap)) else {
            return Place::Fits(self);
        };
        // A smaller batch after a larger one whose receipt was lost: its ids have to do.
        let Some(known) = heads.get(..overlap) else { return Place::Fits(self) };
        let theirs = known.iter().fold(before, link);
        match self.hash {
            Some(ours) if ours != theirs => Place::Forked,
            Some(_) | None => Place::Fits(Self { hash: Some(theirs), ..self }),
        }
    }
}

fn link(before: ChainHash, head: &ChangeHead) -> ChainHash {
    ChainHash::from_digest(Sha256::digest(head.link(before)).into())
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{ChangeId, Epoch};

    use super::*;

    fn head(seq: u64) -> ChangeHead {
        ChangeHead {
            seq,
            id: ChangeId::from_bytes(u128::from(seq).to_be_bytes()),
            node: String::new(),
            base_version: None,
            prev_seq_same_node: None,
            at: String::new(),
            clock: String::new(),
            session: None,
        }
    }

    fn chain(through: u64) -> Chain {
        let start = Chain { acked_through: 0, hash: Some(ChainHash::GENESIS) };
        (1..=through).map(head).fold(start, |chain, head| chain.after(&head))
    }

    /// A batch of the changes `seqs`, of which the agent has all from `low_water`.
    fn place(
        chain_here: Chain,
        seqs: std::ops::RangeInclusive<u64>,
        low_water: u64,
        is_rewound: bool,
    ) -> Place {
        let heads: Vec<_> = seqs.clone().map(head).collect();
        let batch = ChangeBatch::<()> {
            nonce: ChangeId::from_bytes([1; 16]),
            epoch: Epoch::from_bytes([1; 16]),
            instance: None,
            prev_hash: Some(chain(seqs.start() - 1).link()),
            first_seq: *seqs.start(),
            low_water: Some(low_water),
            items: Vec::new(),
        };
        chain_here.place(&batch, &heads, is_rewound)
    }

    #[test]
    fn q6_a_batch_fits_where_the_chain_ends_or_over_its_end() {
        for seqs in [6..=8, 3..=8, 3..=5, 1..=5, 3..=4] {
            assert_eq!(place(chain(5), seqs.clone(), 1, false), Place::Fits(chain(5)), "{seqs:?}");
        }
    }

    #[test]
    fn q6_what_comes_before_a_gap_is_waited_for() {
        assert_eq!(place(chain(5), 7..=8, 1, false), Place::Behind);
        assert_eq!(place(chain(5), 7..=8, 7, false), Place::Behind, "nothing was restored");
    }

    #[test]
    fn n12_after_a_restore_only_what_the_agent_has_no_more_is_given_up() {
        assert_eq!(place(chain(5), 9..=10, 3, true), Place::Behind, "it has them all");
        assert_eq!(place(chain(5), 9..=10, 8, true), Place::Behind, "it has change 8");
        assert_eq!(place(chain(5), 9..=10, 9, true), Place::Lost(chain(8)));
        assert_eq!(place(chain(5), 6..=10, 6, true), Place::Fits(chain(5)));
    }

    #[test]
    fn q5_q8_another_history_is_a_fork() {
        let mut other = chain(5);
        other.hash = Some(ChainHash::from_digest([9; 32]));
        for seqs in [6..=8, 3..=8, 3..=5] {
            assert_eq!(place(other, seqs, 1, false), Place::Forked);
        }
        assert_eq!(place(other, 3..=4, 1, false), Place::Fits(other), "its ids have to tell");
        let unknown = Chain { hash: None, ..chain(5) };
        assert_eq!(place(unknown, 3..=8, 1, false), Place::Fits(chain(5)), "it is learnt");
    }
}
