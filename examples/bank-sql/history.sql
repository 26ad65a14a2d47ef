-- A short history: Ada and Grace open accounts, and Ada sends Grace money.
insert into events (aggregate_id, sequence_number, event_type, data) values
    ('8c6f5d2e-1111-4a5b-9c1d-000000000001', 1, 'AccountOpened', '{"owner_name": "Ada", "iban": "NL01", "currency": "EUR", "branch": "Utrecht"}'),
    ('8c6f5d2e-1111-4a5b-9c1d-000000000001', 2, 'MoneyDeposited', '{"amount": 10000, "counterparty": "cash", "description": "savings"}'),
    ('2b7e1516-2222-4a5b-9c1d-000000000002', 1, 'AccountOpened', '{"owner_name": "Grace", "iban": "NL02", "currency": "EUR", "branch": "Delft"}'),
    ('8c6f5d2e-1111-4a5b-9c1d-000000000001', 3, 'TransferSent', '{"amount": 2500, "to_iban": "NL02"}'),
    ('2b7e1516-2222-4a5b-9c1d-000000000002', 2, 'TransferReceived', '{"amount": 2500, "from_iban": "NL01"}');
