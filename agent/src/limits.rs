//! Limits and money as an agent sees them: credit of rate limits that the coordinator gave it, what each attempt may spend,
//! and how the credential pools stand. One desk for the whole agent decides which request of which attempt may go.
//!
//! ```text
//! gateways ──Ask──▶ ┌── desk ──────────────────────────────┐ ──LimitReport, Spending…──▶ coordinator
//!          ◀──Go─── │ purse of the attempt, then credit of │ ◀──LimitGrant, Allowance…──
//!                   │ (pool, class of the model, worker)   │
//!                   └──────────────────────────────────────┘
//! ```
//!
//! | Module | Holds |
//! |---|---|
//! | [`amounts`] | what a request takes of a rate limit |
//! | [`credit`] | the credit of one meter in one session; pure |
//! | [`learned`] | how much requests turn out to take; pure |
//! | [`purse`] | what one attempt has spent and may spend; pure |
//! | [`standing`] | how a pool stands: open, paused, used up, failing; pure |
//! | [`desk`] | all of them, and the queue; pure |
//! | [`broker`] | the desk as the daemon and the runners share it |
//! | [`seat`] | the connection of one attempt's gateway |
//! | [`bill`] | what an attempt has cost, by its gateway's ledger |

pub mod amounts;
pub mod bill;
pub mod broker;
pub mod credit;
pub mod desk;
pub mod learned;
pub mod purse;
pub mod seat;
pub mod standing;

pub use self::broker::Broker;
pub use self::seat::Seat;
