// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ERC20Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC20/ERC20Upgradeable.sol";
import {EIP712Upgradeable} from "@openzeppelin/contracts-upgradeable/utils/cryptography/EIP712Upgradeable.sol";
import {NoncesUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/NoncesUpgradeable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {ParameterDriven} from "../proxy/ParameterDriven.sol";
import {TokenIntake} from "./TokenIntake.sol";
import {IFeeToken} from "./interfaces/IFeeToken.sol";

/// @title The token that fees are paid in: an underlying dollar token, wrapped one to one, with permits (ERC-2612).
/// @dev All amounts are microdollars. Invariant: the total supply is never more than the underlying tokens held here.
contract FeeToken is IFeeToken, ParameterDriven, ERC20Upgradeable, EIP712Upgradeable, NoncesUpgradeable, IERC20Permit {
    using SafeERC20 for IERC20;

    /// @notice Thrown when a permit is used after its deadline.
    error ERC2612ExpiredSignature(uint256 deadline);
    /// @notice Thrown when a permit was signed by another account than the one whose tokens it is about.
    error ERC2612InvalidSigner(address signer, address owner);
    /// @notice Thrown when underlying tokens cannot be sent.
    error TransferFailed();
    /// @notice Thrown when nothing is to be wrapped or unwrapped.
    error ZeroAmount();
    /// @notice Thrown when tokens are to go to the zero address.
    error ZeroRecipient();
    /// @notice Thrown at construction when no underlying token is given.
    error ZeroUnderlying();

    /// @notice The hash of a permit's EIP-712 type.
    bytes32 public constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    /// @inheritdoc IFeeToken
    address public immutable override underlying;

    /// @notice Builds an implementation.
    /// @dev Reverts with `ZeroParameterRegistry()` or `ZeroUnderlying()`.
    /// @param parameterRegistry_ The registry of this chain.
    /// @param underlying_ The token to wrap.
    constructor(address parameterRegistry_, address underlying_) ParameterDriven(parameterRegistry_) {
        if (underlying_ == address(0)) revert ZeroUnderlying();
        underlying = underlying_;
    }

    /// @notice Names the token. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {
        __ERC20_init("XMTP USD Fee Token", "xUSD");
        __EIP712_init("XMTP USD Fee Token", "1");
    }

    /// @inheritdoc IERC20Permit
    /// @dev Reverts with `ERC2612ExpiredSignature(uint256)`, OpenZeppelin's ECDSA errors (also for a high `s`) or
    ///      `ERC2612InvalidSigner(address,address)`.
    function permit(
        address owner_,
        address spender_,
        uint256 value_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external override {
        if (block.timestamp > deadline_) revert ERC2612ExpiredSignature(deadline_);

        bytes32 digest_ = getPermitDigest(owner_, spender_, value_, _useNonce(owner_), deadline_);
        address signer_ = ECDSA.recover(digest_, v_, r_, s_);
        if (signer_ != owner_) revert ERC2612InvalidSigner(signer_, owner_);

        _approve(owner_, spender_, value_);
    }

    /// @notice Wraps underlying tokens of the caller, who has given this contract an allowance of them.
    /// @dev Reverts with `ZeroAmount()` or `TransferFromFailed()`.
    /// @param amount_ The number of tokens.
    function deposit(uint256 amount_) external override {
        _wrap(msg.sender, amount_);
    }

    /// @notice Does what `deposit` does, with a permit of the underlying token; a permit that fails is ignored.
    /// @param amount_ The number of tokens.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositWithPermit(uint256 amount_, uint256 deadline_, uint8 v_, bytes32 r_, bytes32 s_) external {
        TokenIntake.tryPermit(underlying, amount_, deadline_, v_, r_, s_);
        _wrap(msg.sender, amount_);
    }

    /// @notice Wraps underlying tokens of the caller for another account.
    /// @dev Reverts with `ZeroAmount()`, `ZeroRecipient()` or `TransferFromFailed()`.
    /// @param recipient_ The account that gets the fee tokens.
    /// @param amount_ The number of tokens.
    /// @return success_ True.
    function depositFor(address recipient_, uint256 amount_) external returns (bool success_) {
        _wrap(recipient_, amount_);
        return true;
    }

    /// @notice Does what `depositFor` does, with a permit of the underlying token; a permit that fails is ignored.
    /// @param recipient_ The account that gets the fee tokens.
    /// @param amount_ The number of tokens.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    /// @return success_ True.
    function depositForWithPermit(
        address recipient_,
        uint256 amount_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external returns (bool success_) {
        TokenIntake.tryPermit(underlying, amount_, deadline_, v_, r_, s_);
        _wrap(recipient_, amount_);
        return true;
    }

    /// @notice Unwraps fee tokens of the caller.
    /// @dev Reverts with `ZeroAmount()`, `ERC20InsufficientBalance(address,uint256,uint256)` or `TransferFailed()`.
    /// @param amount_ The number of tokens.
    function withdraw(uint256 amount_) external {
        _unwrap(msg.sender, amount_);
    }

    /// @notice Unwraps fee tokens of the caller for another account.
    /// @dev Reverts with `ZeroAmount()`, `ZeroRecipient()`, `ERC20InsufficientBalance(address,uint256,uint256)` or
    ///      `TransferFailed()`.
    /// @param recipient_ The account that gets the underlying tokens.
    /// @param amount_ The number of tokens.
    /// @return success_ True.
    function withdrawTo(address recipient_, uint256 amount_) external override returns (bool success_) {
        _unwrap(recipient_, amount_);
        return true;
    }

    /// @inheritdoc IERC20Permit
    function DOMAIN_SEPARATOR() external view override returns (bytes32 domainSeparator_) {
        return _domainSeparatorV4();
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "FeeToken";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    /// @notice Returns the digest that is signed for a permit.
    /// @param owner_ The owner of the tokens.
    /// @param spender_ The account that may take them.
    /// @param value_ The number of tokens.
    /// @param nonce_ The owner's nonce.
    /// @param deadline_ Until when it can be used, in seconds since the Unix epoch.
    /// @return digest_ The EIP-712 digest.
    function getPermitDigest(
        address owner_,
        address spender_,
        uint256 value_,
        uint256 nonce_,
        uint256 deadline_
    ) public view returns (bytes32 digest_) {
        return
            _hashTypedDataV4(
                keccak256(abi.encode(PERMIT_TYPEHASH, owner_, spender_, value_, nonce_, deadline_))
            );
    }

    /// @inheritdoc IERC20Permit
    function nonces(
        address owner_
    ) public view override(IERC20Permit, NoncesUpgradeable) returns (uint256 nonce_) {
        return super.nonces(owner_);
    }

    /// @notice Returns the number of decimal places of an amount.
    /// @return decimals_ 6.
    function decimals() public pure override(IERC20Metadata, ERC20Upgradeable) returns (uint8 decimals_) {
        return 6;
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.feeToken.migrator";
    }

    function _wrap(address recipient_, uint256 amount_) private {
        _checkFlow(recipient_, amount_);
        TokenIntake.pullUnderlying(underlying, amount_);
        _mint(recipient_, amount_);
    }

    function _unwrap(address recipient_, uint256 amount_) private {
        _checkFlow(recipient_, amount_);
        _burn(msg.sender, amount_);
        if (!IERC20(underlying).trySafeTransfer(recipient_, amount_)) revert TransferFailed();
    }

    function _checkFlow(address recipient_, uint256 amount_) private pure {
        if (amount_ == 0) revert ZeroAmount();
        if (recipient_ == address(0)) revert ZeroRecipient();
    }
}
