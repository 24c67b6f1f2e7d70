//! A bot that pays for itself: it needs no gateway. What a group has to agree on (commits, identity
//! updates) it sends to the app chain, everything else to a node, signed by its own payer.
//!
//! ```sh
//! hawser dev                      # in one terminal
//! cargo run --release -p hawser-examples --bin bot -- --network hawser-dev/network.json
//! ```
//!
//! Two installations live in this process, each with an inbox of its own. The asker makes a group,
//! adds the bot, and says something; the bot echoes. They meet only through the network.
//!
//! - `network`: publishing and reading;
//! - `inbox`: who somebody is: a wallet, an installation, the update that ties them together;
//! - `conversation`: the group, by openmls.

mod conversation;
mod inbox;
mod network;

use std::path::PathBuf;

use clap::Parser;
use conversation::Conversation;
use inbox::Inbox;
use network::{Network, Stream};

/// Whatever went wrong, in words.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Two installations that talk through a network: one asks, the other one echoes.
#[derive(Parser)]
struct Args {
    /// The file in which `hawser dev` describes its network.
    #[arg(long, value_name = "FILE", default_value = "hawser-dev/network.json")]
    network: PathBuf,
    /// How often the asker says something.
    #[arg(long, value_name = "N", default_value_t = 3)]
    messages: u32,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    // Whoever asks uses the first node, the bot the last one: the network is between them.
    let first = Network::join(&args.network, 0).await?;
    let last = Network::join(&args.network, usize::MAX).await?;
    let (asker, bot) = (Inbox::new()?, Inbox::new()?);
    register("asker", &asker, &first).await?;
    register("bot", &bot, &last).await?;

    let welcomes = last.follow(&bot.welcome_topic(), &[]).await?;
    tokio::select! {
        asked = ask(&first, &asker, &bot, args.messages) => asked,
        // It would wait for more.
        failed = echo(&last, &bot, welcomes) => failed,
    }
}

/// Makes somebody known: a key package to be added with first, then the inbox itself.
async fn register(name: &str, inbox: &Inbox, network: &Network) -> Result<(), Failure> {
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

/// Makes a group with the bot and talks in it until everything was echoed.
async fn ask(network: &Network, asker: &Inbox, bot: &Inbox, messages: u32) -> Result<(), Failure> {
    let key_package = network.newest(&bot.key_package_topic()).await?;
    let key_package = key_package.ok_or("the bot's key package is not there")?;
    let (mut group, commit, welcome) = Conversation::create(asker, &key_package)?;
    let on_chain = network.commit(group.id(), commit).await?;
    println!("asker: group {}, commit {}", hex::encode(group.id()), on_chain.sequence_id);
    group.commit_is_at(on_chain.sequence_id);

    // What depends on a commit is taken by nodes that have seen the commit.
    let mut stream = network.follow(&group.topic(), &[]).await?;
    while stream.next().await?.originator != 0 {}
    network.publish(Conversation::welcome(bot, welcome, on_chain.sequence_id)).await?;
    for number in 1..=messages {
        let text = format!("is anybody there? ({number})");
        network.publish(group.say(asker, &text)?).await?;
        println!("asker: {text}");
        loop {
            let envelope = stream.next().await?;
            if let Some(heard) = group.hear(asker, &envelope)? {
                println!("asker heard: {heard}");
                if heard == echo_of(&text) {
                    break;
                }
            }
        }
    }
    println!("every message was echoed");
    Ok(())
}

/// Joins the first group that the bot is welcomed to, and repeats what is said there.
async fn echo(network: &Network, bot: &Inbox, mut welcomes: Stream) -> Result<(), Failure> {
    let mut group = Conversation::join(bot, &welcomes.next().await?)?;
    println!("bot: joined group {}", hex::encode(group.id()));
    // The commit that added the bot is known from the welcome.
    let mut stream = network.follow(&group.topic(), &[(0, group.commit())]).await?;
    loop {
        let envelope = stream.next().await?;
        if let Some(heard) = group.hear(bot, &envelope)? {
            network.publish(group.say(bot, &echo_of(&heard))?).await?;
        }
    }
}

fn echo_of(text: &str) -> String {
    format!("you said: {text}")
}
