//! Tests of the outcomes of submitted transactions.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

#[test]
fn data_costs_at_least_what_the_floor_says() {
    assert_eq!(floor_gas(&[]), 21_000);
    assert_eq!(floor_gas(&[0, 1, 0xff]), 21_000 + 10 + 80);
    assert_eq!(floor_gas(&vec![1; 200_000]), 8_021_000);
}

#[test]
fn one_endpoint_neither_lowers_a_gas_limit_nor_raises_it_without_a_bound() {
    assert_eq!(agreed_limit(&[], 30_000), None);
    assert_eq!(agreed_limit(&[1], 30_000), Some(30_000));
    for lie in [0, 1, 80_000, 1 << 40, u64::MAX] {
        let of_three = agreed_limit(&[80_000, lie, 82_000], 30_000);
        assert!(of_three.is_some_and(|limit| (80_000..=82_000).contains(&limit)), "{lie}");
        let of_two = agreed_limit(&[lie, 80_000], 30_000);
        assert!(of_two.is_some_and(|limit| (80_000..=640_000).contains(&limit)), "{lie}");
    }
}

#[test]
fn messages_of_nodes_are_classified() {
    for (message, meant) in [
        ("already known", SendOutcome::Accepted),
        ("Nonce too low: next nonce 5, tx nonce 4", SendOutcome::NonceUsed),
        ("nonce too low", SendOutcome::NonceUsed),
        ("replacement transaction underpriced", SendOutcome::Underpriced),
        ("nonce too high: address 0x0, tx: 5 state: 4", SendOutcome::NonceAhead),
        ("txpool is full", SendOutcome::Later),
        ("daily rate limit exceeded", SendOutcome::Later),
        ("Your app has exceeded its compute units per second capacity", SendOutcome::Later),
        ("15/second request limit reached", SendOutcome::Later),
    ] {
        assert_eq!(classify(message.to_owned()), meant, "{message}");
    }
    for message in [
        "transaction underpriced: gas tip cap 1, minimum needed 1000000",
        "transaction gas price below minimum: gas tip cap 1, minimum needed 1000000",
        "max fee per gas less than block base fee: …",
    ] {
        assert_eq!(classify(message.to_owned()), SendOutcome::TooCheap(message.to_owned()));
    }
    for message in [
        "intrinsic gas too low: gas 1, minimum needed 21000",
        "insufficient gas for floor data gas cost: gas 1, minimum needed 21000",
        "exceeds block gas limit",
        "oversized data: transaction size 200000, limit 131072",
        "invalid sender: invalid chain id for signer: have 1 want 2",
    ] {
        assert_eq!(classify(message.to_owned()), SendOutcome::Refused(message.to_owned()));
    }
    let message = "insufficient funds for gas * price + value".to_owned();
    assert_eq!(classify(message.clone()), SendOutcome::Refused(message.clone()));
    let error = refused(Address::ZERO, 1, message);
    assert!(matches!(error, BroadcastError::NoFunds { .. }));
}

#[test]
fn what_not_every_endpoint_refuses_may_have_been_sent() {
    let refused = || SendOutcome::Refused("no".to_owned());
    let cheap = || SendOutcome::TooCheap("no".to_owned());
    for (each, expected) in [
        (vec![refused(), refused()], refused()),
        (vec![refused(), cheap()], cheap()),
        (vec![refused(), SendOutcome::Later], SendOutcome::Later),
        (vec![SendOutcome::Later, SendOutcome::Later], SendOutcome::Later),
        (vec![refused(), SendOutcome::Lost], SendOutcome::Lost),
        (vec![refused(), SendOutcome::Accepted], SendOutcome::Accepted),
        (vec![refused(), SendOutcome::NonceUsed], SendOutcome::NonceUsed),
        (vec![SendOutcome::NonceAhead, refused()], SendOutcome::NonceAhead),
    ] {
        let all = each.iter().cloned().map(Some).collect();
        assert_eq!(refused_by_all(refused(), all), expected, "{each:?}");
    }
    let unreached = refused_by_all(refused(), vec![Some(refused()), None]);
    assert_eq!(unreached, SendOutcome::Later);
    let lost = refused_by_all(SendOutcome::Lost, vec![Some(refused()), Some(refused())]);
    assert_eq!(lost, SendOutcome::Lost, "a lost answer stays one");
}

#[test]
fn a_payload_moves_to_another_nonce_only_if_every_endpoint_calls_its_own_taken() {
    let taken = || SendOutcome::Underpriced;
    for (each, expected) in [
        (vec![taken(), taken()], taken()),
        (vec![taken(), SendOutcome::Later], SendOutcome::Lost),
        (
            vec![taken(), SendOutcome::Refused("no".to_owned())],
            SendOutcome::Unclear("no".to_owned()),
        ),
        (
            vec![taken(), SendOutcome::NonceUsed],
            SendOutcome::UnderpricedForSome(Box::new(SendOutcome::NonceUsed)),
        ),
        (vec![taken(), SendOutcome::Accepted], SendOutcome::Accepted),
    ] {
        let all = each.iter().cloned().map(Some).collect();
        assert_eq!(sent_at_first(taken(), all), expected, "{each:?}");
    }
    assert_eq!(sent_at_first(taken(), vec![Some(taken()), None]), SendOutcome::Lost);
}

/// The other endpoint limits the rate of requests.
#[test]
fn a_payload_is_given_up_at_once_only_if_every_endpoint_that_is_reached_refuses_it() {
    let reason = || "no".to_owned();
    let refused = || SendOutcome::Refused(reason());
    let cheap = || SendOutcome::TooCheap(reason());
    for (first, each, expected) in [
        (refused(), vec![refused(), refused()], refused()),
        (cheap(), vec![cheap(), refused()], cheap()),
        (refused(), vec![refused(), SendOutcome::Later], SendOutcome::Unclear(reason())),
        (refused(), vec![SendOutcome::Later, SendOutcome::Later], SendOutcome::Unclear(reason())),
        (cheap(), vec![cheap(), SendOutcome::Later], SendOutcome::TooCheapForSome(reason())),
        (refused(), vec![refused(), SendOutcome::Accepted], SendOutcome::Contested(reason())),
        (refused(), vec![refused(), SendOutcome::Lost], SendOutcome::Unclear(reason())),
    ] {
        let all = each.iter().cloned().map(Some).collect();
        assert_eq!(sent_at_first(first, all), expected, "{each:?}");
    }
    let other_is_gone = sent_at_first(refused(), vec![Some(refused()), None]);
    assert_eq!(other_is_gone, refused());
}

#[test]
fn a_refusal_counts_beside_an_endpoint_that_never_gives_a_clear_answer() {
    let reason = || "no".to_owned();
    let refused = || SendOutcome::Refused(reason());
    let cheap = || SendOutcome::TooCheap(reason());
    for evasion in [
        SendOutcome::Lost,
        SendOutcome::NonceAhead,
        SendOutcome::NonceUsed,
        SendOutcome::Underpriced,
    ] {
        let beside = |refusal| vec![evasion.clone(), refusal];
        let counted = |refused| match evasion {
            SendOutcome::NonceAhead => SendOutcome::NonceAheadForSome(Box::new(refused)),
            _ => refused,
        };
        let unclear = counted(SendOutcome::Unclear(reason()));
        assert_eq!(weighed(beside(refused())), unclear, "{evasion:?}");
        let unknown = SendOutcome::Unclear(reason());
        assert_eq!(weighed(beside(unknown)), unclear, "{evasion:?}");
        let too_cheap = counted(SendOutcome::TooCheapForSome(reason()));
        assert_eq!(weighed(beside(cheap())), too_cheap, "{evasion:?}");
        let all = beside(refused()).into_iter().map(Some).collect();
        assert_eq!(sent_at_first(evasion.clone(), all), unclear, "{evasion:?}");
        assert_eq!(weighed(beside(SendOutcome::Later)), evasion, "no endpoint refuses it");
        assert_eq!(weighed(beside(SendOutcome::Accepted)), SendOutcome::Accepted);
    }
    let unclear = || SendOutcome::Unclear(reason());
    assert_eq!(weighed(vec![unclear(), cheap()]), SendOutcome::TooCheapForSome(reason()));
    for refusal in [refused(), unclear()] {
        let accepted = vec![SendOutcome::Accepted, refusal];
        assert_eq!(weighed(accepted), SendOutcome::Contested(reason()));
    }
    assert_eq!(weighed(vec![SendOutcome::Accepted, cheap()]), SendOutcome::Accepted);
}

#[test]
fn an_unknown_error_is_no_refusal() {
    for message in ["internal error", "context deadline exceeded", "upstream: try again", ""] {
        assert_eq!(classify(message.to_owned()), SendOutcome::Unclear(message.to_owned()));
    }
}

/// Starts an endpoint of chain 7 that already has every transaction. Returns its URL.
async fn endpoint_that_has_all() -> String {
    endpoint_with(json!({ "code": -32000, "message": "already known" })).await
}

/// Starts an endpoint of chain 7 that answers each other question with this error. Returns its URL.
async fn endpoint_with(error: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let error = error.clone();
            tokio::spawn(async move {
                let (mut part, mut text) = (vec![0; 4096], String::new());
                while let Ok(len @ 1..) = stream.read(&mut part).await {
                    text += &String::from_utf8_lossy(&part[..len]);
                    let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
                    let Ok(asked) = serde_json::from_str::<Value>(body) else { continue };
                    text.clear();
                    let mut answer = json!({ "jsonrpc": "2.0", "id": asked["id"] });
                    if asked["method"] == "eth_chainId" {
                        answer["result"] = json!("0x7");
                    } else {
                        answer["error"] = error.clone();
                    }
                    let body = answer.to_string();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", body.len());
                    let answer = format!("{head}\r\n\r\n{body}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// The other endpoint takes connections and answers nothing.
#[tokio::test]
async fn an_endpoint_that_already_has_a_transaction_ends_the_wait_for_a_silent_one() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let urls = [silent_url, endpoint_that_has_all().await];
    let endpoints = Endpoints::new("app", &urls, 7).unwrap();
    let raw = Bytes::from_static(b"signed");
    let sent = send_to_each(&endpoints, &raw, Duration::from_millis(50)).await;
    assert_eq!(sent, [None, Some(SendOutcome::Accepted)]);
    let waited_for = endpoints.status().swap_remove(0);
    assert_eq!(waited_for.error, None, "an endpoint that is silent for the whole time has failed");
}

/// A client takes a refusal for final. One endpoint says that the contract refuses the payload, and the other one is
/// down.
#[tokio::test]
async fn one_endpoint_of_two_refuses_no_call_while_the_other_one_does_not_answer() {
    let reverts = || endpoint_with(json!({ "code": 3, "message": "execution reverted" }));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let call = Call::create(Bytes::from_static(b"call"));
    let estimated = async |urls: &[String]| {
        let endpoints = Endpoints::new("app", urls, 7).unwrap();
        gas_limit(&endpoints, Address::ZERO, &call).await
    };
    let one_is_down = estimated(&[reverts().await, down]).await;
    assert!(matches!(one_is_down, Err(BroadcastError::Rpc(_))), "{one_is_down:?}");
    let both_refuse = estimated(&[reverts().await, reverts().await]).await;
    assert!(matches!(both_refuse, Err(BroadcastError::WouldRevert(_))), "{both_refuse:?}");
}
