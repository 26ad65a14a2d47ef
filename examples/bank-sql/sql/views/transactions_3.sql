-- Version 3: a movement of nothing is none. "not valid" takes the lock for an instant: it is checked for new rows, and the
-- projectors write no other kind.
alter table transactions add constraint transactions_amount check (amount <> 0) not valid;
