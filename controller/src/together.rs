//! Work that costs little more for many than for one: what comes while it is being done waits, and is done together, next.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};

use crate::store::StoreError;

/// Questions that wait, at most: as many as there are connections.
const WAITING_MAX: usize = 1_024;

/// What is done together.
pub(crate) trait Work: Send + Sync + 'static {
    /// What is asked.
    type Question: Send + Sync;
    /// What is answered if all goes well.
    type Answer: Send;
    /// Questions that are dealt with at once, at most.
    const AT_ONCE: usize;

    /// An answer to each question, in their order.
    ///
    /// # Errors
    /// There is an answer to none of them.
    fn answer(
        &self,
        questions: &[Self::Question],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, StoreError>>, StoreError>> + Send;
}

/// The way to a [`Work`]. Clones share it.
#[derive(Debug)]
pub(crate) struct Together<W: Work> {
    waiting: mpsc::Sender<Order<W>>,
}

impl<W: Work> Clone for Together<W> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone() }
    }
}

enum Order<W: Work> {
    /// Deal with it and say what became of it, if somebody still wants to know.
    Ask(W::Question, Reply<W>),
    /// Take no more, and say when everything is done.
    End(oneshot::Sender<()>),
}

type Reply<W> = oneshot::Sender<Result<<W as Work>::Answer, StoreError>>;

impl<W: Work> Together<W> {
    /// Starts to do `work`, until [`Together::end`] or until all clones are gone.
    pub(crate) fn start(work: W) -> Self {
        let (waiting, orders) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(work, orders));
        Self { waiting }
    }

    /// The answer to `question`.
    ///
    /// # Errors
    /// Too many wait, or as the work says.
    pub(crate) async fn ask(&self, question: W::Question) -> Result<W::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Ask(question, reply);
        self.waiting.try_send(order).map_err(|_| StoreError::Busy)?;
        answer.await.unwrap_or(Err(StoreError::Busy))
    }

    /// Does what waits, and takes no more.
    pub(crate) async fn end(&self) {
        let (ended, has_ended) = oneshot::channel();
        if self.waiting.send(Order::End(ended)).await.is_ok() {
            _ = has_ended.await;
        }
    }
}

async fn run<W: Work>(work: W, mut orders: mpsc::Receiver<Order<W>>) {
    let mut batch = Vec::with_capacity(W::AT_ONCE);
    let mut ends = Vec::new();
    while orders.recv_many(&mut batch, W::AT_ONCE).await > 0 {
        let (mut questions, mut replies) = (Vec::new(), Vec::new());
        for order in batch.drain(..) {
            match order {
                Order::Ask(question, reply) => {
                    questions.push(question);
                    replies.push(reply);
                }
                Order::End(ended) => {
                    orders.close();
                    ends.push(ended);
                }
            }
        }
        answer(&work, &questions, replies).await;
    }
    // Whoever waits for the end is told by this being dropped.
    drop(ends);
}

/// Answers `questions` together, or each for itself if that fails, so that one which cannot be answered is alone in it.
async fn answer<W: Work>(work: &W, questions: &[W::Question], replies: Vec<Reply<W>>) {
    if questions.is_empty() {
        return;
    }
    match work.answer(questions).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                _ = reply.send(answer);
            }
        }
        Err(StoreError::Busy) => {
            for reply in replies {
                _ = reply.send(Err(StoreError::Busy));
            }
        }
        Err(error) => {
            tracing::warn!(error = %error, "dealing with {} requests one by one: {error}", questions.len());
            for (reply, question) in replies.into_iter().zip(questions) {
                let answers = work.answer(std::slice::from_ref(question)).await;
                let missing = || Err(StoreError::Busy);
                _ = reply.send(answers.and_then(|mut one| one.pop().unwrap_or_else(missing)));
            }
        }
    }
}
