//! Proofs over gRPC: the node's key suffices to check them.

use std::time::Duration;

use bytes::Bytes;
use hawser_engine::runtime::start_checkpoint_task;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::{ConsistencyProof, InclusionProof, TreeHash, envelope_leaf};
use hawser_proto::pb::hawser::checkpoint_api as pb;
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_client::CheckpointApiClient;
use hawser_proto::void::VoidStatement;
use hawser_proto::{OriginatorId, SequenceId};
use tonic::Code;
use tonic::transport::Channel;

use crate::common::*;

type Client = CheckpointApiClient<Channel>;

fn checked(bytes: &Bytes) -> Checkpoint {
    let read = CosignedCheckpoint::decode(bytes).unwrap();
    assert_eq!(read.signed.verify(&node_key().public_key()), Ok(()));
    read.signed.checkpoint
}

fn hashes(proof: &[Bytes]) -> Vec<TreeHash> {
    proof.iter().map(|hash| TreeHash::from_slice(hash).unwrap()).collect()
}

/// Asks until a checkpoint of this size exists, and returns it.
async fn checkpoint(client: &mut Client, originator_id: u32, size: u64) -> Checkpoint {
    for _ in 0..1500 {
        let request = pb::GetCheckpointRequest { originator_id, ..Default::default() };
        match client.get_checkpoint(request).await {
            Ok(found) => {
                let found = checked(&found.into_inner().checkpoint);
                if found.size == size {
                    return found;
                }
            }
            Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no checkpoint of size {size} is signed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_checks_an_envelope_and_the_growth_of_the_strand() {
    let node = node().await;
    let task = start_checkpoint_task(&node.engine, node_key());
    let mut client = CheckpointApiClient::new(node.channel().await);
    let mut published = Vec::new();
    for text in ["a", "b", "c"] {
        published.extend(node.publish(vec![message(1, text)]).await);
    }
    let earlier = checkpoint(&mut client, NODE.0, 3).await;
    let request = pb::GetInclusionRequest { originator_id: NODE.0, sequence_id: 2, size: None };
    let shown = client.get_inclusion(request).await.unwrap().into_inner();
    let leaf = envelope_leaf(&published[1]).unwrap();
    assert_eq!((shown.size, TreeHash::from_slice(&shown.leaf)), (3, Some(leaf)));
    assert_eq!(checked(&shown.checkpoint), earlier);
    let proof = InclusionProof(hashes(&shown.proof));
    assert_eq!(proof.verify(leaf, 1, 3, earlier.root), Ok(()));

    node.publish(vec![message(1, "d"), message(1, "e")]).await;
    let later = checkpoint(&mut client, NODE.0, 5).await;
    let request =
        pb::GetConsistencyRequest { originator_id: NODE.0, from_size: 3, ..Default::default() };
    let shown = client.get_consistency(request).await.unwrap().into_inner();
    assert_eq!((shown.to_size, checked(&shown.checkpoint)), (5, later));
    let proof = ConsistencyProof(hashes(&shown.proof));
    assert_eq!(proof.verify(3, 5, earlier.root, later.root), Ok(()));
    let request = pb::GetCheckpointRequest {
        originator_id: NODE.0,
        node_id: Some(NODE.0),
        size_max: Some(4),
    };
    let found = client.get_checkpoint(request).await.unwrap().into_inner();
    assert_eq!(checked(&found.checkpoint), earlier);
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_statements_about_void_places_of_a_strand_stand_beside_its_checkpoint() {
    let node = node().await;
    let task = start_checkpoint_task(&node.engine, node_key());
    let mut client = CheckpointApiClient::new(node.channel().await);
    node.publish(vec![message(1, "a")]).await;
    checkpoint(&mut client, NODE.0, 1).await;
    let declared = |node: u32, from: u64| {
        let (node, from, through) = (OriginatorId(node), SequenceId(from), SequenceId(from + 9));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [4; 16] };
        of.sign(&node_key())
    };
    let all = [declared(NODE.0 + 1, 2), declared(NODE.0, 2), declared(NODE.0, 30)];
    node.engine.store().record_void_statements(&all).unwrap();
    let request = pb::GetCheckpointRequest { originator_id: NODE.0, ..Default::default() };
    let shown = client.get_checkpoint(request).await.unwrap().into_inner();
    assert_eq!(checked(&shown.checkpoint).size, 1);
    let stated = all[1..].iter().map(|signed| Bytes::copy_from_slice(&signed.encode()));
    assert_eq!(shown.void_statements, stated.collect::<Vec<_>>());
    // Of the other strand there is no checkpoint: the statement comes alone, unless a signer is named.
    let request = pb::GetCheckpointRequest { originator_id: NODE.0 + 1, ..Default::default() };
    let alone = client.get_checkpoint(request).await.unwrap().into_inner();
    assert!(alone.checkpoint.is_empty(), "{alone:?}");
    assert_eq!(alone.void_statements, [Bytes::copy_from_slice(&all[0].encode())]);
    let request = pb::GetCheckpointRequest { node_id: Some(NODE.0 + 1), ..request };
    let refused = client.get_checkpoint(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_strand_of_a_chain_has_the_checkpoints_of_the_node_as_an_observer() {
    let node = node().await;
    let task = start_checkpoint_task(&node.engine, node_key());
    node.commit_on_chain(1, 1);
    let mut client = CheckpointApiClient::new(node.channel().await);
    let found = checkpoint(&mut client, 0, 1).await;
    assert_eq!((found.node, found.originator), (NODE, OriginatorId(0)));
    task.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_and_metrics_say_how_many_nodes_cosigned_the_strand() {
    let node = node().await;
    let store = node.engine.store();
    let status = async || {
        let page = node.status().await;
        let strands = page["originators"].as_array().unwrap().clone();
        let own = strands.into_iter().find(|it| it["originator_id"] == NODE.0).unwrap();
        own["checkpoint"].clone()
    };
    let sample = format!("xmtp_checkpoint_cosignatures{{originator_id=\"{NODE}\"}}");
    node.publish(vec![message(1, "a"), message(1, "b"), message(1, "c")]).await;
    assert_eq!(status().await, serde_json::Value::Null, "nothing is signed");
    assert_eq!(node.sample(&sample).await, None);
    let signed = |size: u64| {
        let root = store.snapshot().root(NODE, size).unwrap();
        Checkpoint { node: NODE, originator: NODE, size, root, time_ns: size }.sign(&node_key())
    };
    store.put_checkpoint(&signed(1).into()).unwrap();
    assert_eq!(status().await["size"], 1);
    assert_eq!(status().await["cosigned_by"], 0);
    let mut cosigned = CosignedCheckpoint::from(signed(2));
    assert!(cosigned.add_cosignature(signed(2).checkpoint.cosign(
        OriginatorId(200),
        9,
        &node_key()
    )));
    store.put_checkpoint(&cosigned).unwrap();
    store.put_checkpoint(&signed(3).into()).unwrap();
    let shown = status().await;
    assert_eq!((&shown["size"], &shown["cosigned_by"]), (&2.into(), &1.into()));
    assert!(shown["cosigners"].is_u64(), "{shown}");
    assert_eq!(node.sample(&sample).await, Some(1.0));
}

#[tokio::test]
async fn a_proof_that_there_is_not_is_refused_by_name() {
    let node = node().await;
    let mut client = CheckpointApiClient::new(node.channel().await);
    node.publish(vec![message(1, "a"), message(1, "b")]).await;
    let mut inclusion = async |originator_id, sequence_id, size| {
        let request = pb::GetInclusionRequest { originator_id, sequence_id, size };
        client.get_inclusion(request).await.unwrap_err().code()
    };
    assert_eq!(inclusion(NODE.0, 1, None).await, Code::NotFound, "nothing is signed");
    assert_eq!(inclusion(NODE.0, 1, Some(3)).await, Code::OutOfRange);
    assert_eq!(inclusion(NODE.0, 1, Some(u64::MAX)).await, Code::OutOfRange);
    assert_eq!(inclusion(NODE.0, 2, Some(1)).await, Code::InvalidArgument);
    assert_eq!(inclusion(NODE.0, 0, Some(1)).await, Code::InvalidArgument);
    assert_eq!(inclusion(NODE.0, u64::MAX, Some(2)).await, Code::InvalidArgument);
    assert_eq!(inclusion(900, 1, Some(1)).await, Code::OutOfRange);
    let request =
        pb::GetConsistencyRequest { originator_id: NODE.0, from_size: 2, to_size: Some(1) };
    let refused = client.get_consistency(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
