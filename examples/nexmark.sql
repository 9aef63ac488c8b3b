-- Two queries in the manner of Nexmark over one stream of bids: the auctions' bids per sliding window (after query 5),
-- and the highest price per tumbling window (after query 7).

SET 'pipeline.name' = 'nexmark';
SET 'parallelism.default' = '2';

CREATE TABLE bid (
  auction    BIGINT,
  bidder     BIGINT,
  price      BIGINT,
  channel    STRING,
  url        STRING,
  `dateTime` TIMESTAMP(3),
  extra      STRING,
  WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND
) WITH (
  'connector' = 'nexmark',
  'nexmark.table' = 'bid',
  'events.num' = '2000000'
);

CREATE TABLE hot_auctions (
  window_start TIMESTAMP(3),
  window_end   TIMESTAMP(3),
  auction      BIGINT,
  bids         BIGINT
) WITH ('connector' = 'blackhole');

CREATE TABLE highest_price (
  window_end TIMESTAMP(3),
  price      BIGINT,
  bids       BIGINT
) WITH (
  'connector' = 'filesystem',
  'path' = 'holdfast-data/output/highest_price',
  'format' = 'csv'
);

EXECUTE STATEMENT SET BEGIN

INSERT INTO hot_auctions
SELECT window_start, window_end, auction, COUNT(*) AS bids
FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
GROUP BY window_start, window_end, auction;

INSERT INTO highest_price
SELECT window_end, MAX(price), COUNT(*)
FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND))
GROUP BY window_start, window_end;

END;
