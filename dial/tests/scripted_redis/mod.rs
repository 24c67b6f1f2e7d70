//! A server for tests that answers each command of Redis as it is told.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Starts a server. `answer` gets the name of a command, and the number of connections so far. Returns its URL.
pub(crate) async fn start(
    answer: impl Fn(&str, usize) -> Vec<u8> + Clone + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/0", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut connections = 0;
        while let Ok((stream, _)) = listener.accept().await {
            connections += 1;
            tokio::spawn(serve(stream, connections, answer.clone()));
        }
    });
    url
}

async fn serve(
    stream: TcpStream,
    connections: usize,
    answer: impl Fn(&str, usize) -> Vec<u8> + Send,
) {
    let mut stream = BufReader::new(stream);
    while let Some(name) = command(&mut stream).await {
        let answer = match name.as_str() {
            "CLIENT" => b"+OK\r\n".to_vec(),
            name => answer(name, connections),
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Reads a command. Returns its first word; `None` at the end of the connection.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut name = None;
    for _ in 0..number(stream).await? {
        let mut word = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        let word = String::from_utf8_lossy(&word[..word.len() - 2]).into_owned();
        name.get_or_insert(word);
    }
    name
}

async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim().parse().ok()
}
