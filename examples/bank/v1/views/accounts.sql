create table accounts%SUFFIX% (
    id      uuid   primary key,
    owner   text   not null,
    balance bigint not null
);
