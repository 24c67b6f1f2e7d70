//! The nodes of a trie.

use std::sync::{Arc, OnceLock};

use alloy::primitives::{B256, Bytes, keccak256};
use alloy::rlp::{Encodable as _, Header};

/// The RLP of an empty string, in place of an absent child or value.
const NOTHING: u8 = 0x80;
/// The RLP length in bytes from which a parent refers to a node by its hash; shorter
/// nodes are embedded in their parent.
const HASHED_LEN_MIN: usize = 32;

/// A value at the end of a path.
pub(super) trait TrieValue: Clone {
    /// Returns the RLP of the value, which is never empty.
    fn rlp(&self) -> Vec<u8>;
}

/// A node with its descendants. All keys have the same length, so no value ends at a branch.
#[derive(Debug)]
pub(super) struct TrieNode<V> {
    kind: Kind<V>,
    /// The form in which the parent holds this node.
    reference: OnceLock<Reference>,
}

#[derive(Debug)]
enum Kind<V> {
    /// A value, and the rest of its path.
    Leaf { path: Box<[u8]>, value: V },
    /// The common prefix of all paths below. The child is a branch.
    Extension { path: Box<[u8]>, child: Arc<TrieNode<V>> },
    /// At least two children, by the next nibble.
    Branch(Box<Children<V>>),
}

type Children<V> = [Option<Arc<TrieNode<V>>>; 16];

#[derive(Debug, Clone)]
enum Reference {
    Hash(B256),
    Whole(Bytes),
}

fn new<V>(kind: Kind<V>) -> Arc<TrieNode<V>> {
    Arc::new(TrieNode { kind, reference: OnceLock::new() })
}

fn leaf<V>(path: &[u8], value: V) -> Arc<TrieNode<V>> {
    new(Kind::Leaf { path: path.into(), value })
}

fn common_len(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

impl<V: TrieValue> TrieNode<V> {
    /// Returns the value at a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<&V> {
        match &self.kind {
            Kind::Leaf { path: ours, value } => (**ours == *path).then_some(value),
            Kind::Extension { path: ours, child } => child.get(path.strip_prefix(&**ours)?),
            Kind::Branch(children) => {
                let (next, rest) = path.split_first()?;
                children[usize::from(*next)].as_ref()?.get(rest)
            }
        }
    }

    /// Returns the node with a value at a path.
    pub(super) fn insert(node: Option<&Arc<Self>>, path: &[u8], value: V) -> Arc<Self> {
        let Some(node) = node else { return leaf(path, value) };
        match &node.kind {
            Kind::Leaf { path: ours, .. } if **ours == *path => leaf(path, value),
            Kind::Leaf { path: ours, value: held } => {
                let common = common_len(ours, path);
                let theirs = leaf(&ours[common + 1..], held.clone());
                fork(ours, theirs, path, value, common)
            }
            Kind::Extension { path: ours, child } => {
                let common = common_len(ours, path);
                if common == ours.len() {
                    let child = Self::insert(Some(child), &path[common..], value);
                    return new(Kind::Extension { path: ours.clone(), child });
                }
                let theirs = prefixed(&ours[common + 1..], child);
                fork(ours, theirs, path, value, common)
            }
            Kind::Branch(children) => {
                let mut children = children.clone();
                let child = &mut children[usize::from(path[0])];
                *child = Some(Self::insert(child.as_ref(), &path[1..], value));
                new(Kind::Branch(children))
            }
        }
    }

    /// Returns the node without the value at a path; `None` if nothing is left.
    pub(super) fn remove(node: &Arc<Self>, path: &[u8]) -> Option<Arc<Self>> {
        if node.get(path).is_none() {
            return Some(node.clone());
        }
        match &node.kind {
            Kind::Leaf { .. } => None,
            Kind::Extension { path: ours, child } => {
                let child = Self::remove(child, &path[ours.len()..])?;
                Some(prefixed(ours, &child))
            }
            Kind::Branch(children) => {
                let mut children = children.clone();
                let child = &mut children[usize::from(path[0])];
                *child = child.take().and_then(|child| Self::remove(&child, &path[1..]));
                let mut left = (0u8..)
                    .zip(children.iter())
                    .filter_map(|(at, child)| child.as_ref().map(|child| (at, child)));
                match (left.next(), left.next()) {
                    (Some((at, only)), None) => Some(prefixed(&[at], only)),
                    _ => Some(new(Kind::Branch(children))),
                }
            }
        }
    }

    /// Appends the RLP of each node on the path to which its parent refers by hash. The root is always included.
    pub(super) fn prove(&self, path: &[u8], proof: &mut Vec<Bytes>) {
        if proof.is_empty() || matches!(self.reference(), Reference::Hash(_)) {
            proof.push(self.rlp().into());
        }
        match &self.kind {
            Kind::Leaf { .. } => {}
            Kind::Extension { path: ours, child } => {
                if let Some(rest) = path.strip_prefix(&**ours) {
                    child.prove(rest, proof);
                }
            }
            Kind::Branch(children) => {
                let next = path.split_first();
                let child = next.and_then(|(next, _)| children[usize::from(*next)].as_ref());
                if let Some(child) = child {
                    child.prove(&path[1..], proof);
                }
            }
        }
    }

    /// Returns the RLP of the node.
    pub(super) fn rlp(&self) -> Vec<u8> {
        let mut items = Vec::new();
        match &self.kind {
            Kind::Leaf { path, value } => {
                compact(path, true).as_slice().encode(&mut items);
                value.rlp().as_slice().encode(&mut items);
            }
            Kind::Extension { path, child } => {
                compact(path, false).as_slice().encode(&mut items);
                child.reference().write(&mut items);
            }
            Kind::Branch(children) => {
                for child in children.iter() {
                    match child {
                        Some(child) => child.reference().write(&mut items),
                        None => items.push(NOTHING),
                    }
                }
                items.push(NOTHING);
            }
        }
        let mut rlp = Vec::with_capacity(items.len() + 4);
        Header { list: true, payload_length: items.len() }.encode(&mut rlp);
        rlp.extend(items);
        rlp
    }

    fn reference(&self) -> &Reference {
        self.reference.get_or_init(|| {
            let rlp = self.rlp();
            if rlp.len() < HASHED_LEN_MIN {
                return Reference::Whole(rlp.into());
            }
            Reference::Hash(keccak256(rlp))
        })
    }
}

impl Reference {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hash(hash) => hash.encode(out),
            Self::Whole(rlp) => out.extend(rlp),
        }
    }
}

/// Returns a branch where two paths diverge after `common` nibbles: one child is `theirs`, the other a new value.
fn fork<V: TrieValue>(
    ours: &[u8],
    theirs: Arc<TrieNode<V>>,
    path: &[u8],
    value: V,
    common: usize,
) -> Arc<TrieNode<V>> {
    let mut children: Box<Children<V>> = Box::default();
    children[usize::from(ours[common])] = Some(theirs);
    children[usize::from(path[common])] = Some(leaf(&path[common + 1..], value));
    prefixed(&path[..common], &new(Kind::Branch(children)))
}

/// Returns a node below a longer path. Consecutive path segments are merged into one node.
fn prefixed<V: TrieValue>(prefix: &[u8], node: &Arc<TrieNode<V>>) -> Arc<TrieNode<V>> {
    if prefix.is_empty() {
        return node.clone();
    }
    match &node.kind {
        Kind::Leaf { path, value } => leaf(&[prefix, path].concat(), value.clone()),
        Kind::Extension { path, child } => {
            let path = [prefix, path].concat().into();
            new(Kind::Extension { path, child: child.clone() })
        }
        Kind::Branch(_) => new(Kind::Extension { path: prefix.into(), child: node.clone() }),
    }
}

/// Returns a path in whole bytes (hex-prefix encoding). The first nibble encodes the kind of the node
/// and whether the length is odd.
fn compact(path: &[u8], is_leaf: bool) -> Vec<u8> {
    let flags = if is_leaf { 2 } else { 0 };
    let (first, pairs) = match path.split_first() {
        Some((first, rest)) if path.len() % 2 == 1 => ((flags + 1) << 4 | first, rest),
        _ => (flags << 4, path),
    };
    let pairs = pairs.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
    std::iter::once(first).chain(pairs).collect()
}
