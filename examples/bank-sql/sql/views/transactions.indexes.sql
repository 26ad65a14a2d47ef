alter table transactions%SUFFIX% add constraint transactions%SUFFIX%_pkey primary key (event_id);
create unique index transactions%SUFFIX%_account on transactions%SUFFIX% (account_id, seq);
