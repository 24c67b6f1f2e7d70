//! Chains to develop against: an embedded EVM behind JSON-RPC, anvil, the relay of the bridge, funded accounts.
