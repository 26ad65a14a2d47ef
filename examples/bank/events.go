package bank

import (
	"github.com/google/uuid"

	"github.com/viewschema/projector/projections"
)

// The events, as the application stores them. Amounts are in the currency's smallest unit.
type (
	// Opened begins an account.
	Opened struct {
		Owner    string `json:"owner_name"`
		IBAN     string `json:"iban"`
		Currency string `json:"currency"`
		Branch   string `json:"branch"`
	}
	// Renamed gives it another owner name.
	Renamed struct {
		Owner string `json:"owner_name"`
	}
	// Deposited brings money in.
	Deposited struct {
		Amount       int64  `json:"amount"`
		Counterparty string `json:"counterparty"`
		Description  string `json:"description"`
	}
	// Withdrawn takes money out.
	Withdrawn struct {
		Amount       int64  `json:"amount"`
		Counterparty string `json:"counterparty"`
		Description  string `json:"description"`
	}
	// TransferSent takes money out for another account of the bank; a TransferReceived there, with the same
	// id, goes with it.
	TransferSent struct {
		Transfer uuid.UUID `json:"transfer_id"`
		Amount   int64     `json:"amount"`
		To       string    `json:"to_iban"`
	}
	// TransferReceived brings money in from another account of the bank.
	TransferReceived struct {
		Transfer uuid.UUID `json:"transfer_id"`
		Amount   int64     `json:"amount"`
		From     string    `json:"from_iban"`
	}
	// Closed ends the account.
	Closed struct{}
)

// Events names them in the event store.
var Events = []projections.EventType{
	projections.JSON[Opened]("AccountOpened"),
	projections.JSON[Renamed]("AccountRenamed"),
	projections.JSON[Deposited]("MoneyDeposited"),
	projections.JSON[Withdrawn]("MoneyWithdrawn"),
	projections.JSON[TransferSent]("TransferSent"),
	projections.JSON[TransferReceived]("TransferReceived"),
	projections.JSON[Closed]("AccountClosed"),
}
