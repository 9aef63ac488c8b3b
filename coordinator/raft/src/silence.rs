//! When a follower may take a silent leader for dead.
//!
//! openraft counts from the last message that consensus has worked off, and its timeout is bound to the leader's lease,
//! which the replacement of a dead leader waits for ([`crate::hint`]): short, then, and shorter than a busy disk or
//! processor may hold a healthy leader up. So openraft's own timer is kept from firing until
//! - nothing was heard of a leader for [`TimingProfile::patience`](crate::TimingProfile::patience) and a random part,
//!   counted where the network hands messages over, and
//! - this process was awake in that time: one that was not scheduled has not listened, or
//! - the leader's process is known to be gone.
//!
//! Nothing about safety depends on it.

use crate::core::Core;
use holdfast_common::clock::SharedRandom;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::Instant;

/// Watches for as long as consensus runs.
pub(crate) async fn run(core: Weak<Core>) {
    let Some((mut watch, period)) = core.upgrade().map(|core| {
        let profile = core.config.profile;
        let watch = Watch::new(
            Instant::now(),
            profile.heartbeat(),
            profile.patience(),
            profile.election_min(),
        );
        (watch, profile.heartbeat())
    }) else {
        return;
    };
    let mut allowed = None;
    loop {
        {
            let Some(core) = core.upgrade() else { return };
            let now = Instant::now();
            if let Some(late) = watch.woke(now) {
                tracing::warn!(late_ms = late.as_millis(), "this process was held up");
            }
            // Copied out of their locks one after the other: no lock is taken under another one here.
            let heard = *core.leader_contact.lock();
            let gone = known_gone(&core, heard);
            let allow = gone || watch.is_silent(heard, now, &core.random);
            if allowed != Some(allow) {
                core.raft.allow_elections(allow);
                allowed = Some(allow);
            }
        }
        tokio::time::sleep(period).await;
    }
}

/// Whether the leader that is followed is the one whose process is gone.
fn known_gone(core: &Core, heard: Option<Instant>) -> bool {
    let gone = *core.gone.lock();
    let Some((leader, term, since)) = gone else {
        return false;
    };
    let metrics = core.raft_metrics();
    let followed = metrics.current_term == term && metrics.current_leader == Some(leader);
    // An election that is under way has a newer term; it must go on if the first candidate fails.
    let unsettled = followed || metrics.current_leader.is_none();
    // Its port refused and it lives all the same: a firewall may do that.
    let lives = heard.is_some_and(|at| at > since + core.config.profile.heartbeat());
    if unsettled && !lives {
        return true;
    }
    *core.gone.lock() = None;
    false
}

/// What the decision is made from.
struct Watch {
    period: Duration,
    patience: Duration,
    spread: Duration,
    /// This part is added to the patience: candidates that wake up together split the votes.
    extra: Option<Duration>,
    /// When it last looked.
    woke: Instant,
    /// What was silent before is forgiven: this process could not have heard it.
    deaf_until: Option<Instant>,
}

impl Watch {
    fn new(now: Instant, period: Duration, patience: Duration, spread: Duration) -> Self {
        Self {
            period,
            patience,
            spread,
            extra: None,
            woke: now,
            deaf_until: None,
        }
    }

    /// Notes that this process is awake; answers for how long it was held up, if for long.
    fn woke(&mut self, now: Instant) -> Option<Duration> {
        let late = (now - self.woke).saturating_sub(self.period);
        self.woke = now;
        if late <= self.period {
            return None;
        }
        self.deaf_until = Some(now);
        (late > self.patience / 8).then_some(late)
    }

    /// Whether the leader, last heard at `heard`, is silent for too long. No leader was ever heard at the start and
    /// after a lost election: then there is nothing to wait for.
    fn is_silent(&mut self, heard: Option<Instant>, now: Instant, random: &SharedRandom) -> bool {
        let Some(heard) = heard else { return true };
        let spread = u64::try_from(self.spread.as_micros()).unwrap_or(u64::MAX).max(1);
        let extra = *self
            .extra
            .get_or_insert_with(|| Duration::from_micros(random.next_u64() % spread));
        // What lies in the queues is worked off in a few heartbeats' time after having been held up.
        let deaf = self.deaf_until.is_some_and(|at| now < at + self.period * 3);
        let silent = now - heard > self.patience + extra && !deaf;
        if now - heard < self.patience {
            self.extra = None;
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cluster_for_tests::random;

    const PERIOD: Duration = Duration::from_millis(25);
    const PATIENCE: Duration = Duration::from_millis(800);
    const SPREAD: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_leader_that_was_never_heard_is_not_waited_for() {
        let now = Instant::now();
        let mut watch = Watch::new(now, PERIOD, PATIENCE, SPREAD);
        assert!(watch.is_silent(None, now, &random()));
    }

    #[test]
    fn silence_is_borne_for_the_patience_and_ends_within_the_spread() {
        let start = Instant::now();
        let mut watch = Watch::new(start, PERIOD, PATIENCE, SPREAD);
        let random = random();
        let mut ended = None;
        for tick in 1..=40 {
            let now = start + PERIOD * tick;
            assert_eq!(watch.woke(now), None);
            if watch.is_silent(Some(start), now, &random) && ended.is_none() {
                ended = Some(now - start);
            }
        }
        let ended = ended.unwrap();
        assert!(
            ended > PATIENCE && ended <= PATIENCE + SPREAD + PERIOD,
            "{ended:?}"
        );
    }

    #[test]
    fn who_was_held_up_itself_listens_again_before_it_judges() {
        let start = Instant::now();
        let mut watch = Watch::new(start, PERIOD, PATIENCE, SPREAD);
        let random = random();
        let now = start + ms(1000);
        assert_eq!(watch.woke(now), Some(ms(975)));
        assert!(!watch.is_silent(Some(start), now, &random));
        // Nothing came since: the leader is silent indeed.
        let mut later = now;
        for _ in 0..3 {
            later += PERIOD;
            watch.woke(later);
        }
        assert!(watch.is_silent(Some(start), later, &random));
    }
}
