//! A bot that pays for itself and needs no gateway. It sends commits and identity updates, which need one order, to the
//! app chain, and everything else to a node, signed by its own payer.
//!
//! ```sh
//! scripts/dev                                               # builds everything; leave it running
//! export PATH="$HOME/.cache/hawser-target/release:$PATH"    # in another terminal
//! bot --network hawser-dev/network.json
//! ```
//!
//! The payer is the one of the network's gateway, which then sends nothing to the app chain for a minute or two.
//!
//! Two installations run in this process, each with an inbox of its own. The asker makes a group, adds the bot, and
//! sends messages; the bot echoes them. The two communicate only through the network.
//!
//! - `network`: publishing and reading;
//! - `inbox`: an identity: a wallet, an installation, and the update that ties them together;
//! - `conversation`: the group, by openmls.

#![warn(missing_docs)]

mod conversation;
mod inbox;
mod network;

use std::path::PathBuf;

use clap::Parser;
use conversation::Conversation;
use hawser_proto::GroupId;
use inbox::Inbox;
use network::{Network, Stream};

/// Any error, printed at the end.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Two installations that talk through a network: one asks, the other one echoes.
#[derive(Parser)]
struct Args {
    /// The file in which `hawser dev` describes its network.
    #[arg(long, value_name = "FILE", default_value = "hawser-dev/network.json")]
    network: PathBuf,
    /// Messages that the asker sends.
    #[arg(long, value_name = "N", default_value_t = 3)]
    messages: u32,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    // The asker uses the first node and the bot the last one, so that messages cross the network.
    let first = Network::join(&args.network, 0).await?;
    let last = Network::join(&args.network, usize::MAX).await?;
    let (asker, bot) = (Inbox::new()?, Inbox::new()?);
    register("asker", &asker, &first).await?;
    register("bot", &bot, &last).await?;

    let welcomes = last.follow(&bot.welcome_topic(), &[]).await?;
    tokio::select! {
        asked = ask(&first, &asker, &bot, args.messages) => asked,
        // The echo never ends by itself.
        failed = echo(&last, &bot, welcomes) => failed,
    }
}

/// Publishes a key package, then registers the inbox. In this order a client that finds the inbox can add it.
async fn register(name: &str, inbox: &Inbox, network: &Network) -> Result<(), BoxError> {
    network.publish(inbox.key_package()?).await?;
    let (inbox_id, update) = inbox.registration()?;
    let on_chain = network.identity_update(inbox_id, update).await?;
    println!(
        "{name}: inbox {}, update {} in block {}",
        inbox.id(),
        on_chain.sequence_id,
        on_chain.block_number
    );
    Ok(())
}

/// Makes a group with the bot and sends messages until all are echoed.
async fn ask(network: &Network, asker: &Inbox, bot: &Inbox, messages: u32) -> Result<(), BoxError> {
    let key_package = network.newest(&bot.key_package_topic()).await?;
    let key_package = key_package.ok_or("the bot's key package is not there")?;
    let (mut group, commit, welcome) = Conversation::create(asker, &key_package)?;
    let on_chain = network.commit(GroupId(group.id()), commit).await?;
    println!("asker: group {}, commit {}", hex::encode(group.id()), on_chain.sequence_id);
    group.set_commit(on_chain.sequence_id.0);

    // A node accepts an envelope that depends on a commit only after it has read the commit.
    let mut stream = network.follow(&group.topic(), &[]).await?;
    while stream.next().await?.originator != 0 {}
    network.publish(Conversation::welcome(bot, welcome, on_chain.sequence_id.0)).await?;
    for number in 1..=messages {
        let text = format!("is the bot there? ({number})");
        network.publish(group.encrypt(asker, &text)?).await?;
        println!("asker: {text}");
        loop {
            let envelope = stream.next().await?;
            if let Some(decrypted) = group.decrypt(asker, &envelope)? {
                println!("asker heard: {decrypted}");
                if decrypted == echo_of(&text) {
                    break;
                }
            }
        }
    }
    println!("every message was echoed");
    Ok(())
}

/// Joins the first group that welcomes the bot, and echoes its messages.
async fn echo(network: &Network, bot: &Inbox, mut welcomes: Stream) -> Result<(), BoxError> {
    let mut group = Conversation::join(bot, &welcomes.next().await?)?;
    println!("bot: joined group {}", hex::encode(group.id()));
    // The welcome names the commit that added the bot.
    let mut stream = network.follow(&group.topic(), &[(0, group.commit())]).await?;
    loop {
        let envelope = stream.next().await?;
        if let Some(decrypted) = group.decrypt(bot, &envelope)? {
            network.publish(group.encrypt(bot, &echo_of(&decrypted))?).await?;
        }
    }
}

fn echo_of(text: &str) -> String {
    format!("you said: {text}")
}
