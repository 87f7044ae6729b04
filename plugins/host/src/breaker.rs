//! Sets a policy aside that fails again and again, and tries it once more later (FAULTS P14).

use std::collections::VecDeque;
use std::time::Duration;

/// So many failures within [`WINDOW`] set a policy aside.
pub const FAILURES_MAX: usize = 3;

/// For how long a failure counts.
pub const WINDOW: Duration = Duration::from_secs(600);

/// How long a policy is set aside the first time. Each trial that fails doubles it.
pub const PAUSE_MIN: Duration = Duration::from_secs(60);

/// How long it is set aside at most.
pub const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// What has changed with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The policy is not asked until then.
    SetAside {
        /// When it is tried again.
        until: Duration,
    },
    /// A trial went well: it is asked again.
    Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    /// After `until` the next question is a trial.
    Aside {
        until: Duration,
        pause: Duration,
    },
}

/// Counts the failures of one policy. Times are since any fixed moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    failures: VecDeque<Duration>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Asked, failures: VecDeque::new() }
    }
}

impl Breaker {
    /// One that is set aside until then, as it was before the agent was started anew.
    pub fn set_aside(until: Duration, pause: Duration) -> Self {
        let pause = pause.clamp(PAUSE_MIN, PAUSE_MAX);
        Self { state: State::Aside { until, pause }, failures: VecDeque::new() }
    }

    /// For how long it was last set aside; none if it is asked.
    pub fn pause(&self) -> Option<Duration> {
        match self.state {
            State::Aside { pause, .. } => Some(pause),
            State::Asked => None,
        }
    }

    /// Until when the policy is not asked; none if it may be.
    pub fn aside_until(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Aside { until, .. } if now < until => Some(until),
            State::Aside { .. } | State::Asked => None,
        }
    }

    /// A question was answered.
    pub fn record_answer(&mut self) -> Change {
        match self.state {
            State::Asked => Change::None,
            State::Aside { .. } => {
                *self = Self::default();
                Change::Back
            }
        }
    }

    /// A question was not.
    pub fn record_failure(&mut self, now: Duration) -> Change {
        let pause = match self.state {
            State::Aside { pause, .. } => (pause * 2).min(PAUSE_MAX),
            State::Asked => {
                self.failures.retain(|failure| now.saturating_sub(*failure) < WINDOW);
                self.failures.push_back(now);
                if self.failures.len() < FAILURES_MAX {
                    return Change::None;
                }
                self.failures.clear();
                PAUSE_MIN
            }
        };
        let until = now + pause;
        self.state = State::Aside { until, pause };
        Change::SetAside { until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn aside(at: u64) -> Breaker {
        let mut breaker = Breaker::default();
        for second in [at - 2, at - 1, at] {
            breaker.record_failure(s(second));
        }
        breaker
    }

    #[test]
    fn p14_three_failures_in_ten_minutes_set_a_policy_aside() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.record_failure(s(0)), Change::None);
        breaker.record_answer();
        assert_eq!(breaker.record_failure(s(300)), Change::None);
        assert_eq!(breaker.record_failure(s(599)), Change::SetAside { until: s(659) });
        assert_eq!(breaker.aside_until(s(658)), Some(s(659)));
        assert_eq!(breaker.aside_until(s(659)), None);
    }

    #[test]
    fn p14_failures_that_lie_further_apart_do_not_count_together() {
        let mut breaker = Breaker::default();
        for second in [0, 300, 600, 900, 1_200] {
            assert_eq!(breaker.record_failure(s(second)), Change::None, "at {second} s");
        }
    }

    #[test]
    fn p14_each_trial_that_fails_doubles_the_pause_up_to_an_hour() {
        let mut breaker = aside(10);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let now = match breaker.state {
                State::Aside { until, .. } => until,
                State::Asked => panic!("it is asked"),
            };
            let Change::SetAside { until } = breaker.record_failure(now) else {
                panic!("not set aside")
            };
            pauses.push((until - now).as_secs());
        }
        assert_eq!(pauses, [120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
    }

    #[test]
    fn p14_one_trial_that_goes_well_brings_a_policy_back_as_new() {
        let mut breaker = aside(10);
        assert_eq!(breaker.record_answer(), Change::Back);
        assert_eq!(breaker, Breaker::default());
    }
}
