//! Carries out what the centre orders, beside the heartbeats that bring the orders and tell what became of them.

use std::cell::RefCell;

use pureboot_protocol::{
    COMMAND_RESULTS_MAX, Category, CommandId, CommandResult, ContentKey, Invalid, Mac,
    SignedUpdate, SiteCommand, SiteOrder, Timestamp,
};
use smol::channel::{Receiver, Sender, bounded};

use crate::clock;
use crate::store::Store;
use crate::update::updater::{Activity, Updater};
use crate::uplink::controller::{CHECK, Controller};
use crate::uplink::orders::{Ending, Orders, Taken};
use crate::uplink::rotate::Rotation;

/// Who keeps the site's content and can bring it up to date.
pub trait Content {
    /// Looks at the content of `categories`, or at all of it if there are none, and fetches what is to be had; `force` looks
    /// also where nothing seems to have changed. What `progress` is told reaches the centre with each heartbeat.
    ///
    /// Answers none if it could not be tried; the order comes again then.
    fn sync(
        &self,
        force: bool,
        categories: &[Category],
        progress: impl Fn(String),
    ) -> impl Future<Output = Option<Ending>>;

    /// The controller has told the version of the site's manifest, or has answered and does not tell.
    fn hear(&self, manifest_version: Option<u64>, now: Timestamp);

    /// Asks anew what `key` names. What is there stays, and is served, until its replacement is verified.
    ///
    /// Answers none if it could not be tried; the order comes again then.
    fn revalidate(&self, key: &ContentKey) -> impl Future<Output = Option<Ending>>;
}

/// What takes its time, with the command that it belongs to.
struct Task {
    id: CommandId,
    work: Work,
}

enum Work {
    Update(SignedUpdate),
    ChangeCredential,
    AskAbout(Mac),
    Sync { force: bool, categories: Vec<Category> },
    Revalidate(ContentKey),
}

/// Tasks that wait for their turn. There is room for as many as are remembered.
struct Lane {
    sender: Sender<Task>,
    receiver: Receiver<Task>,
}

impl Default for Lane {
    fn default() -> Self {
        let (sender, receiver) = bounded(COMMAND_RESULTS_MAX);
        Self { sender, receiver }
    }
}

/// Brings the agent itself to another version, and knows when that disturbs nobody.
struct Updating<'a> {
    updater: &'a Updater,
    activity: &'a dyn Activity,
}

/// Carries out orders, one after another in each of three lanes, so that none waits for a download that does not concern it.
pub struct Obeyer<'a, C> {
    controller: &'a Controller,
    store: &'a Store,
    rotation: &'a Rotation<'a>,
    content: &'a C,
    orders: RefCell<Orders>,
    updating: Option<Updating<'a>>,
    quick: Lane,
    slow: Lane,
    own: Lane,
    news: (Sender<()>, Receiver<()>),
}

impl<'a, C: Content> Obeyer<'a, C> {
    /// Obeys with these.
    pub fn new(
        controller: &'a Controller,
        store: &'a Store,
        rotation: &'a Rotation<'a>,
        content: &'a C,
    ) -> Self {
        Self {
            controller,
            store,
            rotation,
            content,
            orders: RefCell::default(),
            updating: None,
            quick: Lane::default(),
            slow: Lane::default(),
            own: Lane::default(),
            // One signal that waits is as good as many.
            news: bounded(1),
        }
    }

    /// The same, where the agent itself can be brought to another version.
    pub fn updating(self, updater: &'a Updater, activity: &'a dyn Activity) -> Self {
        Self { updating: Some(Updating { updater, activity }), ..self }
    }

    /// What the next heartbeat is to say.
    pub fn results(&self) -> Vec<CommandResult> {
        self.orders.borrow().results()
    }

    /// The controller has answered a heartbeat that said `told`, and orders `commands`; `settings` is what became of the site's
    /// settings that came with them.
    pub fn handle_answer(
        &self,
        told: &[CommandResult],
        commands: Vec<SiteCommand>,
        settings: Ending,
    ) {
        let has_orders = !commands.is_empty();
        self.orders.borrow_mut().handle_told(told);
        let taken = self.orders.borrow_mut().take(commands);
        for Taken { id, order } in taken {
            log::info!(command:% = id; "the centre orders {}", describe(&order));
            match order {
                SiteOrder::UpdateConfig {} => self.finish(id, settings.clone()),
                SiteOrder::RotateCredential {} => {
                    self.begin(&self.quick, id, Work::ChangeCredential)
                }
                SiteOrder::Update { update } => self.begin(&self.own, id, Work::Update(update)),
                SiteOrder::Invalidate(Invalid::Node { mac })
                | SiteOrder::ResolveConflict { mac, .. } => {
                    self.begin(&self.quick, id, Work::AskAbout(mac))
                }
                SiteOrder::Invalidate(Invalid::Content { category, path }) => {
                    match ContentKey::new(category, &path) {
                        Ok(key) => self.begin(&self.slow, id, Work::Revalidate(key)),
                        Err(error) => self.finish(id, Ending::failed(error.to_string())),
                    }
                }
                SiteOrder::Sync { force, categories } => {
                    self.begin(&self.slow, id, Work::Sync { force, categories })
                }
            }
        }
        if has_orders {
            self.tell_soon();
        }
    }

    fn begin(&self, lane: &Lane, id: CommandId, work: Work) {
        if lane.sender.try_send(Task { id, work }).is_err() {
            self.orders.borrow_mut().put_off(id);
        }
    }

    fn finish(&self, id: CommandId, ending: Ending) {
        log::info!(command:% = id; "command {id} is {ending}");
        self.orders.borrow_mut().finish(id, ending);
    }

    /// Returns when there is something to tell that the last heartbeat has not said.
    pub async fn news(&self) {
        // The sender lives as long as this does.
        _ = self.news.1.recv().await;
    }

    /// Carries out what is ordered, for as long as the agent runs.
    pub async fn run(&self) {
        let own = self.work(&self.own);
        smol::future::zip(own, smol::future::zip(self.work(&self.quick), self.work(&self.slow)))
            .await;
    }

    async fn work(&self, lane: &Lane) {
        while let Ok(Task { id, work }) = lane.receiver.recv().await {
            match self.carry_out(id, work).await {
                Some(ending) => {
                    self.finish(id, ending);
                    self.tell_soon();
                }
                None => self.orders.borrow_mut().put_off(id),
            }
        }
    }

    /// How a command has ended; none if it could not be carried out now.
    async fn carry_out(&self, id: CommandId, work: Work) -> Option<Ending> {
        match work {
            Work::Update(update) => self.update(id, update).await,
            Work::ChangeCredential => self.rotation.obey(id).await,
            Work::AskAbout(mac) => self.ask_about(mac).await,
            Work::Sync { force, categories } => {
                let progress = |text| self.orders.borrow_mut().note_progress(id, text);
                self.content.sync(force, &categories, progress).await
            }
            Work::Revalidate(key) => self.content.revalidate(&key).await,
        }
    }

    /// Brings the agent itself to another version.
    async fn update(&self, id: CommandId, update: SignedUpdate) -> Option<Ending> {
        let Some(Updating { updater, activity }) = &self.updating else {
            return Some(Ending::unsupported("this agent cannot be brought to another version"));
        };
        let progress = |text| {
            self.orders.borrow_mut().note_progress(id, text);
            self.tell_soon();
        };
        updater.obey(id, update, *activity, progress).await
    }

    /// Asks anew about a machine. Its record stays until another one is there (FAULTS C15).
    async fn ask_about(&self, mac: Mac) -> Option<Ending> {
        match self.store.mark_due(mac).await {
            Ok(true) => {}
            Ok(false) => {
                return Some(Ending::completed(format!("the site remembers nothing of {mac}")));
            }
            Err(error) => {
                log::warn!(mac:%, error:%; "what is known of {mac} cannot be doubted now");
                return None;
            }
        }
        let asked_at = clock::now();
        let answer = self.controller.node(mac, CHECK).await;
        let record = match answer.map(|answer| answer.record) {
            Ok(Some(record)) => record,
            Ok(None) => {
                let text = format!("the controller knows no machine {mac}; its record stays");
                return Some(Ending::completed(text));
            }
            Err(error) => {
                log::debug!(mac:%, error:%; "{mac} cannot be asked about anew now");
                return None;
            }
        };
        match self.store.save_record(record.clone(), asked_at).await {
            Ok(node) if node.known.as_ref().is_some_and(|known| known.record == record) => {
                Some(Ending::completed(format!("{mac} has version {}", record.version)))
            }
            // What the site itself has reported is not known there yet: the answer is to be asked for again.
            Ok(_) => None,
            Err(error) => {
                log::warn!(mac:%, error:%; "what the controller says of {mac} cannot be kept");
                None
            }
        }
    }

    fn tell_soon(&self) {
        _ = self.news.0.try_send(());
    }
}

/// An order in the log. What is signed is told by whoever has checked it.
fn describe(order: &SiteOrder) -> String {
    match order {
        SiteOrder::Update { .. } => "another version of the agent".to_owned(),
        order => format!("{order:?}"),
    }
}

#[cfg(test)]
mod tests;
