//! The session of one command on chains: its plan, its confirmation, its transactions and its result.

use std::time::Duration;

use alloy::primitives::B256;
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::admin::{Account, AdminError, ChainRole, Network, Plan, PlanStep};
use hawser_chain::broadcast::Witnesses;
use hawser_chain::send::{Chain, Quote, SendError, Sender};
use hawser_node::error::RunError;
use serde_json::{Value, json};

use super::key::{self, KeyVariables};
use super::network::{ChainsNeeded, ReachedNetwork, connect_to_all};
use super::show::{self, ResultFields};
use crate::args::onchain::{SendArgs, TransactionArgs};
use crate::output::{self, Reporter};

/// The use of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Send it.
    Send {
        /// True to ask before.
        ask: bool,
    },
    /// Simulate it.
    DryRun,
    /// Print it for a multisig.
    Calldata,
}

impl Mode {
    /// Returns the use that the arguments ask for.
    pub(crate) fn of(send: &SendArgs) -> Self {
        match (send.dry_run, send.calldata) {
            (false, false) => Self::Send { ask: !send.yes },
            (true, _) => Self::DryRun,
            (_, true) => Self::Calldata,
        }
    }

    /// Returns the word in JSON output.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Send { .. } => "send",
            Self::DryRun => "dry_run",
            Self::Calldata => "calldata",
        }
    }
}

/// A command that changes contracts. If it ends without a result after a transaction was mined, JSON output prints the
/// steps all the same: a script that saw nothing would send them once more.
pub(crate) struct OnchainSession {
    /// Chains and contracts.
    pub(crate) network: Network,
    /// Account in whose name the command acts.
    pub(crate) account: Account,
    senders: Option<Senders>,
    /// The endpoints of the settlement chain, and those of the app chain.
    witnesses: (Witnesses, Option<Witnesses>),
    mode: Mode,
    timeout: Duration,
    reporter: Reporter,
    transcript: Transcript,
    /// True if the steps are printed as JSON.
    is_printed: bool,
    /// The chains on which transactions of an earlier run were under way when this command began.
    waited_on: Vec<ChainRole>,
}

/// Senders of the account, one for each chain.
struct Senders {
    settlement: Sender,
    app: Option<Sender>,
}

/// The steps and notes of a command, which JSON output prints at the end.
#[derive(Default)]
struct Transcript {
    notes: Vec<String>,
    steps: Vec<Value>,
    /// The reason for which the result cannot be read, although transactions are mined.
    result_error: Option<String>,
}

impl Transcript {
    /// Returns true if a transaction of the command is mined.
    fn has_mined(&self) -> bool {
        self.steps.iter().any(|step| !step["receipt"].is_null())
    }

    /// Returns the result of reading the chain. If reading fails after a transaction was mined, records the error, and
    /// returns `None`.
    fn take_look<T>(&mut self, look: Result<T, RunError>) -> Result<Option<T>, RunError> {
        match look {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.has_mined() => {
                self.result_error = Some(error.text);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn to_json(&self, mode: Mode, account: &Account, result: &Value) -> Value {
        json!({
            "mode": mode.word(),
            "account": account.address().map(|address| address.to_string()),
            "notes": self.notes,
            "steps": self.steps,
            "result": result,
            "result_error": self.result_error,
        })
    }
}

impl OnchainSession {
    /// Checks the arguments and connects to the chains.
    ///
    /// # Errors
    /// When an argument is wrong, or a chain does not answer.
    pub(crate) async fn open(
        args: &TransactionArgs,
        reach: ChainsNeeded,
        names: &[KeyVariables],
        as_json: bool,
    ) -> Result<Self, RunError> {
        let send = &args.send;
        let mode = Mode::of(send);
        let account = account(send, mode, names)?;
        let reached = connect_to_all(&args.network, reach).await?;
        let senders = match &account {
            Account::Key(key) => Some(Senders::new(&reached, key, send.timeout, as_json)),
            Account::Address(_) | Account::Unknown => None,
        };
        let waited_on = match (mode, &senders) {
            (Mode::Send { .. }, Some(senders)) => senders.settled().await?,
            _ => Vec::new(),
        };
        let (timeout, reporter) = (send.timeout, Reporter { as_json });
        Ok(Self {
            network: reached.network,
            account,
            senders,
            witnesses: (reached.settlement, reached.app),
            mode,
            timeout,
            reporter,
            transcript: Transcript::default(),
            is_printed: false,
            waited_on,
        })
    }

    /// Refuses a payment on a chain if transactions of an earlier run were under way there when this command began. An
    /// interrupted run may have sent the same payment, and a repetition would make it a second time. Other steps
    /// are planned from the state of the chain, so they are not repeated.
    ///
    /// # Errors
    /// When there were such transactions.
    pub(crate) fn refuse_repeated_payment(&self, chain: ChainRole) -> Result<(), RunError> {
        if !may_repeat(&self.waited_on, chain) {
            return Ok(());
        }
        let account = self.account.required()?;
        Err(RunError::refused(format!(
            "nothing was sent: a transaction of {account} was under way when this command began, and is mined now. \
             It may be this payment, of a run that was interrupted: look at `hawser payer balance`, and repeat the \
             command if it is not"
        )))
    }

    /// Returns true if transactions are sent.
    pub(crate) fn sends(&self) -> bool {
        matches!(self.mode, Mode::Send { .. })
    }

    /// Returns the time limit of waiting.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Shows the plan, and sends it if the mode is to send.
    ///
    /// # Errors
    /// When a step would fail or has failed, or the user does not confirm.
    pub(crate) async fn carry_out(&mut self, plan: Plan) -> Result<(), RunError> {
        let (first, count) = (self.transcript.steps.len(), plan.steps.len());
        let shown = self.propose_all(&plan.steps, first).await;
        // Also if a step would fail: a note says what the account lacks, or who may do it.
        for note in plan.notes {
            self.propose_text(format!("note: {note}"));
            self.transcript.notes.push(note);
        }
        let shown = shown?;
        let Mode::Send { ask } = self.mode else { return Ok(()) };
        if ask && count > 0 {
            confirm(count)?;
        }
        for (index, (step, shown)) in plan.steps.iter().zip(&shown).enumerate() {
            let what = NumberedStep { step, number: index + 1, count };
            self.send(&what, shown.as_ref(), first + index).await?;
        }
        Ok(())
    }

    /// Shows all steps of a plan, of which the first one has the place `first` in the transcript. Returns the cost of
    /// each, if it was shown.
    async fn propose_all(
        &mut self,
        steps: &[PlanStep],
        first: usize,
    ) -> Result<Vec<Option<Quote>>, RunError> {
        let count = steps.len();
        let mut shown = Vec::with_capacity(count);
        for (index, step) in steps.iter().enumerate() {
            self.transcript.steps.push(show::step_json(&self.network, step));
            let what = NumberedStep { step, number: index + 1, count };
            shown.push(self.propose(&what, first + index).await?);
        }
        Ok(shown)
    }

    /// Shows a step with its cost, or with the call data for a multisig. Returns the cost if it was shown.
    async fn propose(
        &mut self,
        what: &NumberedStep<'_>,
        place: usize,
    ) -> Result<Option<Quote>, RunError> {
        self.propose_text(show::step_text(&self.network, what.step, what.number, what.count));
        if self.mode == Mode::Calldata {
            self.propose_text(show::calldata_text(what.step));
            return Ok(None);
        }
        let quote = if what.step.waits { None } else { Some(self.quoted(what).await?) };
        if let Some(quote) = &quote {
            self.transcript.steps[place]["estimate"] = show::quote_json(quote);
        }
        self.propose_text(show::quote_text(quote.as_ref()));
        Ok(quote)
    }

    /// Simulates a step from the account.
    async fn quoted(&self, what: &NumberedStep<'_>) -> Result<Quote, RunError> {
        let (account, call) = (self.account.required()?, &what.step.call);
        let side = what.step.contract.chain();
        let chain = self.network.chain(side)?;
        // The members of a multisig pay for gas, and not the multisig.
        let is_contract = match &self.account {
            Account::Address(_) => chain.has_code(account).await.map_err(RunError::failed)?,
            Account::Key(_) | Account::Unknown => false,
        };
        let quote = match (side, &self.witnesses) {
            _ if is_contract => chain.quote_without_fee(account, call).await,
            (ChainRole::Settlement, (witnesses, _)) | (ChainRole::App, (_, Some(witnesses))) => {
                witnesses.quote(chain, account, call).await
            }
            (ChainRole::App, (_, None)) => chain.quote(account, call).await,
        };
        quote.map_err(|error| what.failed(&error))
    }

    /// Sends a step for no more than the cost that was shown, and waits until it is mined.
    async fn send(
        &mut self,
        what: &NumberedStep<'_>,
        shown: Option<&Quote>,
        place: usize,
    ) -> Result<(), RunError> {
        let senders = self.senders.as_ref().ok_or_else(no_key)?;
        let side = what.step.contract.chain();
        let sender = senders.of(side).ok_or_else(|| RunError::from(AdminError::NoChain(side)))?;
        self.say(format_args!("step {}: waiting until it is mined", what.number));
        let call = &what.step.call;
        let quote = match shown {
            Some(shown) => sender.quote_within(call, shown).await,
            None => sender.quote(call).await.map(Some),
        };
        let quote = quote.map_err(|error| what.failed(&error))?;
        let quote = quote.ok_or_else(|| what.too_dear())?;
        let receipt = sender.send_quoted(call, &quote).await;
        let receipt = receipt.map_err(|error| what.failed(&error))?;
        self.print_receipt(side, &receipt, place);
        Ok(())
    }

    fn print_receipt(&mut self, side: ChainRole, receipt: &TransactionReceipt, place: usize) {
        let events = self.network.events(side, receipt);
        self.say(show::receipt_text(receipt, &events));
        self.transcript.steps[place]["receipt"] = show::receipt_json(receipt, &events);
    }

    /// Prints a line of the proposal. With JSON output it goes to the error output, because the user
    /// who is asked must see it.
    fn propose_text(&self, text: String) {
        if self.reporter.as_json && self.mode == (Mode::Send { ask: true }) {
            output::note(text);
        } else {
            self.say(text);
        }
    }

    /// Prints a line for people only.
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        self.reporter.text(text);
    }

    /// Returns what a look at the chain has found after the transactions. If one is mined, a look that fails is a note
    /// and no failure of the command: a script would send the transactions once more.
    ///
    /// # Errors
    /// The error of the look, if nothing was sent.
    pub(crate) fn seen<T>(
        &mut self,
        look: Result<T, impl Into<RunError>>,
    ) -> Result<Option<T>, RunError> {
        let seen = self.transcript.take_look(look.map_err(Into::into))?;
        if let Some(error) = &self.transcript.result_error {
            self.say(format_args!(
                "note: the transactions are mined, and the result cannot be read: {error}"
            ));
        }
        Ok(seen)
    }

    /// Ends the command: prints the result that a look at the chain finds, if anything was sent.
    ///
    /// # Errors
    /// The errors of [`seen`](Self::seen).
    pub(crate) async fn finish_with(
        mut self,
        look: impl AsyncFnOnce(&Network) -> Result<Option<ResultFields>, RunError>,
    ) -> Result<(), RunError> {
        let result = match self.sends() {
            true => {
                let found = look(&self.network).await;
                self.seen(found)?.flatten()
            }
            false => None,
        };
        self.finish(result);
        Ok(())
    }

    /// Ends the command: prints the result, if anything was sent.
    pub(crate) fn finish(mut self, result: Option<ResultFields>) {
        match result {
            result if self.reporter.as_json => {
                self.print_json(&result.map_or(Value::Null, ResultFields::into_json));
            }
            Some(result) => result.print(),
            None => self.say_that_nothing_was_sent(),
        }
    }

    /// Ends the command: prints a list of results, if anything was sent.
    pub(crate) fn finish_list(mut self, results: Option<Vec<ResultFields>>) {
        match results {
            results if self.reporter.as_json => {
                let list = |results: Vec<ResultFields>| {
                    results.into_iter().map(ResultFields::into_json).collect()
                };
                self.print_json(&results.map_or(Value::Null, list));
            }
            Some(results) => results.iter().for_each(ResultFields::print_row),
            None => self.say_that_nothing_was_sent(),
        }
    }

    fn say_that_nothing_was_sent(&self) {
        if self.mode == Mode::DryRun {
            self.say("nothing was sent: this was a dry run");
        }
    }

    fn print_json(&mut self, result: &Value) {
        self.is_printed = true;
        output::line(self.transcript.to_json(self.mode, &self.account, result));
    }
}

impl Drop for OnchainSession {
    fn drop(&mut self) {
        if self.reporter.as_json && !self.is_printed && self.transcript.has_mined() {
            self.print_json(&Value::Null);
        }
    }
}

/// A step with its number.
struct NumberedStep<'a> {
    step: &'a PlanStep,
    number: usize,
    count: usize,
}

impl NumberedStep<'_> {
    fn failed(&self, error: &SendError) -> RunError {
        self.named(RunError::failed(error))
    }

    /// Returns the error of a step whose cost has become far higher than the one that was shown.
    fn too_dear(&self) -> RunError {
        self.named(RunError::refused(
            "it was not sent: it costs far more now than was shown. Run the command again to see the present cost",
        ))
    }

    fn named(&self, failure: RunError) -> RunError {
        let Self { step, number, count } = self;
        let (contract, function) = (step.contract, step.described().name);
        if *count == 1 {
            failure.while_doing(format_args!("{contract}.{function}"))
        } else {
            failure.while_doing(format_args!("step {number} of {count}, {contract}.{function}"))
        }
    }
}

impl Senders {
    fn new(
        reached: &ReachedNetwork,
        key: &PrivateKeySigner,
        timeout: Duration,
        as_json: bool,
    ) -> Self {
        let ReachedNetwork { network, settlement, app, .. } = reached;
        let sender = |chain: &Chain, witnesses: &Witnesses| {
            let sender = Sender::new(chain.clone(), key.clone()).with_receipt_timeout(timeout);
            let sender = sender.with_hash_callback(if as_json { tell_script } else { tell });
            sender.with_witnesses(witnesses.clone())
        };
        let app = network.app.as_ref().zip(app.as_ref());
        Self {
            settlement: sender(&network.settlement, settlement),
            app: app.map(|(chain, witnesses)| sender(chain, witnesses)),
        }
    }

    /// Waits until transactions of an earlier run are mined: they may be the ones that this run is
    /// about to repeat. Returns the chains on which there was one.
    async fn settled(&self) -> Result<Vec<ChainRole>, RunError> {
        let mut waited_on = Vec::new();
        for chain in [ChainRole::Settlement, ChainRole::App] {
            let Some(sender) = self.of(chain) else { continue };
            if sender.settled().await.map_err(RunError::failed)? {
                waited_on.push(chain);
            }
        }
        Ok(waited_on)
    }

    fn of(&self, side: ChainRole) -> Option<&Sender> {
        match side {
            ChainRole::Settlement => Some(&self.settlement),
            ChainRole::App => self.app.as_ref(),
        }
    }
}

/// Returns true if a payment on a chain may be a transaction for which the command has waited. Those on the other chain
/// are no payment of this kind: the account of a gateway nearly always has one under way on the app chain.
fn may_repeat(waited_on: &[ChainRole], chain: ChainRole) -> bool {
    waited_on.contains(&chain)
}

/// Prints the hash of a transaction that a node is about to get.
fn tell(hash: B256) {
    output::line(format_args!("  as transaction {hash}"));
}

/// Prints the hash of a transaction that a node is about to get, for the script that reads the result. The result
/// itself comes later, and not at all if the command is ended while it waits.
fn tell_script(hash: B256) {
    output::note(json!({ "transaction": hash.to_string() }));
}

/// Returns the account in whose name a command acts.
///
/// # Errors
/// When a key is needed and not given, or is no key.
pub(crate) fn account(
    send: &SendArgs,
    mode: Mode,
    names: &[KeyVariables],
) -> Result<Account, RunError> {
    let sends = matches!(mode, Mode::Send { .. });
    if let Some(address) = send.from {
        return match sends {
            true => Err(RunError::usage(
                "--from names an account without its key, which cannot send: give --dry-run or --calldata too",
            )),
            false => Ok(Account::Address(address)),
        };
    }
    // A multisig sends the call data, so a key in the environment is not the sender's.
    let is_asked_for = mode != Mode::Calldata || send.key_file.is_some();
    let key = if is_asked_for { key::signer(send.key_file.as_deref(), names)? } else { None };
    match (key, mode) {
        // A key could sign permits, which a multisig cannot, so only the address is used.
        (Some(key), Mode::Calldata) => Ok(Account::Address(key.address())),
        (Some(key), Mode::Send { .. } | Mode::DryRun) => Ok(Account::Key(key)),
        (None, Mode::Calldata) => Ok(Account::Unknown),
        (None, Mode::Send { .. }) => Err(no_key()),
        (None, Mode::DryRun) => {
            Err(RunError::usage("no account is named: give --key-file FILE, or --from ADDRESS"))
        }
    }
}

/// Returns the error of a command that signs and has no key.
pub(crate) fn no_key() -> RunError {
    RunError::usage(
        "the command signs with a key: give --key-file FILE, or HAWSER_KEY_FILE or HAWSER_KEY in the environment; \
         with --dry-run or --calldata an address is enough: --from ADDRESS",
    )
}

/// Asks the user at the terminal.
///
/// # Errors
/// When the answer is not yes, and when there is no terminal.
pub(crate) fn confirm(count: usize) -> Result<(), RunError> {
    let question = format!("Send {}?", output::count(count, "transaction"));
    output::confirm(question, "nothing was sent")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the payer of a busy gateway could hardly fund itself.
    #[test]
    fn transactions_of_the_app_chain_keep_no_payment_from_the_settlement_chain() {
        let waited_on = [ChainRole::App];
        assert!(!may_repeat(&waited_on, ChainRole::Settlement));
        assert!(may_repeat(&waited_on, ChainRole::App));
        assert!(!may_repeat(&[], ChainRole::App));
    }

    /// The endpoint fails between the receipt and the look at the balance. A script that saw a failure would pay twice.
    #[test]
    fn a_result_that_cannot_be_read_fails_no_command_that_has_sent() {
        let mut transcript = Transcript::default();
        transcript.steps.push(json!({ "function": "deposit" }));
        let failed = || Err::<u8, _>(RunError::failed("the endpoint is down"));
        let printed = |transcript: &Transcript| {
            transcript.to_json(Mode::Send { ask: false }, &Account::Unknown, &Value::Null)
        };
        assert_eq!(transcript.take_look(failed()), Err(RunError::failed("the endpoint is down")));
        assert_eq!(printed(&transcript)["result_error"], Value::Null);

        transcript.steps[0]["receipt"] = json!({ "block": 7 });
        assert_eq!(transcript.take_look(Ok(1)), Ok(Some(1)));
        assert_eq!(printed(&transcript)["result_error"], Value::Null);
        assert_eq!(transcript.take_look(failed()), Ok(None));
        let printed = printed(&transcript);
        assert_eq!(printed["result_error"], "the endpoint is down");
        assert_eq!(printed["steps"][0]["receipt"]["block"], 7, "{printed}");
    }
}
