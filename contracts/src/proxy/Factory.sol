// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";

import {ParameterKeys} from "../libraries/ParameterKeys.sol";
import {Initializable} from "./Initializable.sol";
import {ParameterDriven} from "./ParameterDriven.sol";
import {Proxy} from "./Proxy.sol";

/// @title Deploys implementations and proxies at addresses that are known beforehand.
/// @dev An implementation's address follows from its init code, a proxy's from the caller and a salt. Any account may
///      deploy.
contract Factory is ParameterDriven {
    /// @notice The implementation that new proxies start with was deployed.
    event InitializableImplementationDeployed(address indexed implementation);
    /// @notice An implementation was deployed.
    event ImplementationDeployed(address indexed implementation, bytes32 indexed bytecodeHash);
    /// @notice A proxy was deployed. Logged before it is initialised.
    event ProxyDeployed(
        address indexed proxy,
        address indexed implementation,
        address indexed sender,
        bytes32 salt,
        bytes initializeCallData
    );

    /// @notice Thrown when deployments are switched off.
    error Paused();
    /// @notice Thrown when there is no init code to deploy.
    error EmptyBytecode();
    /// @notice Thrown when a proxy is wanted for the zero address.
    error InvalidImplementation();
    /// @notice Thrown when the constructor reverts, or the address is taken.
    error DeployFailed();

    /// @custom:storage-location erc7201:xmtp.storage.Factory
    struct FactoryStorage {
        bool paused;
        address initializableImplementation;
    }

    bytes32 private constant STORAGE_SLOT = 0x651b031aaeb8a5a65735ac2bad4001a08e08ce7e1a4736b27ec7d04baeb8f600;

    string private constant KEY_PREFIX = "xmtp.factory";

    /// @notice Fixes the parameter registry.
    /// @param parameterRegistry_ Its address, which needs no code yet: the factory itself may deploy it. Zero reverts
    ///        with `ZeroParameterRegistry()`.
    constructor(address parameterRegistry_) ParameterDriven(parameterRegistry_) {}

    /// @notice Deploys the implementation that new proxies start with.
    /// @dev Once per proxy, then `InvalidInitialization()`. Without it, `deployProxy` fails with `DeployFailed()`.
    function initialize() external initializer {
        address implementation_ = address(new Initializable());
        _storage().initializableImplementation = implementation_;
        emit InitializableImplementationDeployed(implementation_);
    }

    /// @notice Deploys a contract by its init code.
    /// @dev Reverts with `Paused()`, `EmptyBytecode()` or `DeployFailed()`.
    /// @param bytecode_ The init code, constructor arguments included.
    /// @return implementation_ Its address, as `computeImplementationAddress` returns it.
    function deployImplementation(bytes calldata bytecode_) external returns (address implementation_) {
        _checkNotPaused();
        if (bytecode_.length == 0) revert EmptyBytecode();
        bytes32 hash_ = keccak256(bytecode_);
        implementation_ = _create2(bytecode_, hash_);
        emit ImplementationDeployed(implementation_, hash_);
    }

    /// @notice Deploys a proxy, and initialises it.
    /// @dev Reverts with `Paused()`, `InvalidImplementation()`, `DeployFailed()`, or the errors of
    ///      `Initializable.initialize`.
    /// @param implementation_ The implementation behind the proxy.
    /// @param salt_ Any word; each can be used once by each caller.
    /// @param initializeCallData_ The first call to the proxy, or nothing.
    /// @return proxy_ Its address, as `computeProxyAddress` returns it.
    function deployProxy(
        address implementation_,
        bytes32 salt_,
        bytes calldata initializeCallData_
    ) external returns (address proxy_) {
        _checkNotPaused();
        if (implementation_ == address(0)) revert InvalidImplementation();
        proxy_ = _create2(_proxyInitCode(), _proxySalt(msg.sender, salt_));
        emit ProxyDeployed(proxy_, implementation_, msg.sender, salt_, initializeCallData_);
        Initializable(proxy_).initialize(implementation_, initializeCallData_);
    }

    /// @notice Returns the address at which `deployImplementation` puts a contract.
    /// @param bytecode_ The init code, constructor arguments included.
    /// @return implementation_ The address.
    function computeImplementationAddress(bytes calldata bytecode_) external view returns (address implementation_) {
        bytes32 hash_ = keccak256(bytecode_);
        return Create2.computeAddress(hash_, hash_);
    }

    /// @notice Returns the address at which `deployProxy` puts a proxy.
    /// @param caller_ The account that will call `deployProxy`.
    /// @param salt_ The word that it will pass.
    /// @return proxy_ The address.
    function computeProxyAddress(address caller_, bytes32 salt_) external view returns (address proxy_) {
        return Create2.computeAddress(_proxySalt(caller_, salt_), keccak256(_proxyInitCode()));
    }

    /// @notice The implementation that new proxies start with.
    /// @return initializableImplementation_ Its address, zero before `initialize`.
    function initializableImplementation() external view returns (address initializableImplementation_) {
        return _storage().initializableImplementation;
    }

    /// @notice Returns true if deployments are switched off. Nothing ever switches them off.
    /// @return paused_ False.
    function paused() external view returns (bool paused_) {
        return _storage().paused;
    }

    /// @notice The key of a parameter that no function takes over.
    /// @return key_ The key.
    function pausedParameterKey() external pure returns (string memory key_) {
        return ParameterKeys.join(KEY_PREFIX, "paused");
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return ParameterKeys.join(KEY_PREFIX, "migrator");
    }

    /// @notice The contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "Factory";
    }

    /// @notice The contract's version.
    /// @return version_ Major, minor and patch number, with dots.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    function _create2(bytes memory initCode_, bytes32 salt_) private returns (address deployed_) {
        assembly ("memory-safe") {
            deployed_ := create2(0, add(initCode_, 0x20), mload(initCode_), salt_)
        }
        if (deployed_ == address(0)) revert DeployFailed();
    }

    function _checkNotPaused() private view {
        if (_storage().paused) revert Paused();
    }

    function _proxyInitCode() private view returns (bytes memory initCode_) {
        return bytes.concat(type(Proxy).creationCode, abi.encode(_storage().initializableImplementation));
    }

    function _proxySalt(address caller_, bytes32 salt_) private pure returns (bytes32 create2Salt_) {
        return keccak256(abi.encode(caller_, salt_));
    }

    function _storage() private pure returns (FactoryStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
